"""Reading what studies left in the lake: every table as one view across studies, from Python and by SQL."""

from orchestration.results.results import Results
from orchestration.results.sql import Limits
from orchestration.results.views import Moment

__all__ = ["Limits", "Moment", "Results"]
