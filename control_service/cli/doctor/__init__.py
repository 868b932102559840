"""`turbospec doctor`: one module per group of checks; each yields findings and changes nothing."""
