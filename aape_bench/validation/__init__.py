"""Does a model keep HEAR's API and this harness's contract? Checks that say pass, warn or fail, with the reason.

    from aape_bench.validation import open_subject, validate
    report = validate(open_subject("hear:my_package.my_module", {}, "default", 0, "cpu"))
    report.failed, report.rows

A HEAR module is asked through its own functions, as it loads itself: the adapter that `run` puts around it would mend
or refuse what is to be found here.
"""

from aape_bench.validation.run import Report, Row, validate
from aape_bench.validation.subject import Subject, open_subject

__all__ = ["Report", "Row", "Subject", "open_subject", "validate"]
