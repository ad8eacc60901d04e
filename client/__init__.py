"""The site: training on its own records, its policy and approvals, and the door to the outside."""
