"""One call: names of models, stores or matrices in; a comparison with all that it needs out."""

from interp.studies.one_call import study
from interp.studies.options import Judging, Showing
from interp.studies.record import Study

__all__ = ["Judging", "Showing", "Study", "study"]
