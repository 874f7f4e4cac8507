"""The report: a study's findings as one self-contained page of HTML, and as a row of its own table."""
