"""A report on a log as one HTML page. Every number is the answer to a question that `audit query` can ask."""
