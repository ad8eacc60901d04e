"""What a site's privacy officer is shown: accounts of the ledger, a study before it is approved, the ledger's page."""
