"""Sources that sample the policy while it trains."""
