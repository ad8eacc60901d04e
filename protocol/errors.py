"""The one tree of errors that a user may meet.

::

    CloisterError
    ├── InputError            what the user gave cannot be used
    │   ├── SchemaError       the data dictionary is wrong
    │   ├── StudyError        the study is wrong
    │   └── RecordsError      the records do not fit the schema
    ├── PrivacyError          the guarantee would not hold
    │   ├── BudgetError       a ceiling would be passed
    │   ├── AccountingError   accountants disagree, or an event is unknown
    │   └── LedgerError       the ledger is damaged, locked or full
    ├── ApprovalError         the site did not approve what is asked of it
    ├── FederationError       a round could not be completed
    ├── WireError             a message is malformed, of the wrong version or out of bounds
    └── ReleaseError          a release is damaged or incomplete

Every message gives the name and value at fault and a remedy. A message about records never contains a
value of a record: it names file, column and count.
"""


class CloisterError(Exception):
    """Root of all errors that Cloister raises on purpose.

    Args:
        problem: What is wrong, naming the thing and its value.
        remedy: What the reader can do about it, as one sentence.
    """

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class InputError(CloisterError):
    """What the user gave cannot be used: mend the file or the option that the message names."""


class SchemaError(InputError):
    """The data dictionary is wrong: mend the column that the message names."""


class StudyError(InputError):
    """The study is wrong: mend the key that the message names."""


class RecordsError(InputError):
    """The records do not fit the schema: mend the column, or widen the public bounds in the schema."""


class PrivacyError(CloisterError):
    """The guarantee would not hold: nothing was released."""


class BudgetError(PrivacyError):
    """A ceiling would be passed: ask for less, or let the site's policy allow more."""


class AccountingError(PrivacyError):
    """Accountants disagree or an event is unknown to them: report it, and do not release."""


class LedgerError(PrivacyError):
    """The ledger is damaged, locked or cannot be written: mend it before anything leaves the site."""


class ApprovalError(CloisterError):
    """The site did not approve what is asked of it: approve the study, or ask why it differs."""


class FederationError(CloisterError):
    """A round could not be completed: look at the sites that the message names."""


class WireError(CloisterError):
    """A message is malformed, of the wrong version or out of bounds: both ends must run the same Cloister."""


class ReleaseError(CloisterError):
    """A release is damaged or incomplete: fetch it again from whoever made it."""
