"""The tests, for a pytest that is told to collect them from here: of what a connection does.

Left out is what asks the catalogue, or compiles a text and no more.
"""

from sqlalchemy.testing.suite.test_dialect import *  # noqa: F403
from sqlalchemy.testing.suite.test_insert import *  # noqa: F403
from sqlalchemy.testing.suite.test_results import *  # noqa: F403
from sqlalchemy.testing.suite.test_rowcount import *  # noqa: F403
from sqlalchemy.testing.suite.test_types import JSONTest, NativeUUIDTest  # noqa: F401
from sqlalchemy.testing.suite.test_update_delete import *  # noqa: F403
