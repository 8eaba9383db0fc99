"""The search for the password finds it."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest

from django_poolkit.testing import Node
from tests.servers.conftest import Deploy
from tests.servers.project import PASSWORD

FORMS = {
    "as it is": PASSWORD,
    "in a URL": quote(PASSWORD, safe=""),
    "read as a URL's": unquote(PASSWORD),
    "the host of a URL that broke": f"postgres://teller:{PASSWORD}@host".rpartition(":")[2][-9:],
    "cut off": PASSWORD[:7],
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_password_is_found_in_what_was_said_and_logged(
    database: Node, deploy: Deploy, form: str
) -> None:
    project = deploy(database, {})
    assert project.giveaways() == []
    project.said["poolstatus"] = "fine\nso far\n"
    (project.home / "logs" / "0").write_text(f"INFO connected\nERROR {FORMS[form]}!\n")
    assert project.giveaways() == [f"log 0: ERROR {FORMS[form]}!"]
    (project.home / "logs" / "0").unlink()
    project.said["poolstatus"] += FORMS[form]
    assert project.giveaways() == [f"poolstatus: {FORMS[form]}"]
    project.said.clear()
