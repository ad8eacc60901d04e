"""Parts of every prediction: what is predicted, from which features, and how well."""
