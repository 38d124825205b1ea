"""The report of a published version: what is measured for it, what it compares, and the page itself."""

ANALYSIS_NAME = "analysis.json"
REPORT_NAME = "report.html"
