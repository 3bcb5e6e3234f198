"""Tables, colour and SARIF."""
