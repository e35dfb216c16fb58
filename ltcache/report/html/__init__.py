"""A report as one HTML page: what is shown, as data (facts, tables, figures), and the page of it.

Needs Plotly, the extra ``report``. Nothing of this package is loaded until a page is asked for.
"""

from ltcache.report.html.page import PageSize, write_report_page

__all__ = ["PageSize", "write_report_page"]
