"""What `bench/compare` is made of: servers, scenarios, figures, the report and its charts."""
