"""Settings for Django's own test runner that tell each test's outcome, as compat_pytest.py does."""

from __future__ import annotations

import json
import os
import unittest
from typing import Any

from django.test.runner import DiscoverRunner


def database(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": os.environ["PGUSER"],
        "PASSWORD": os.environ["PGPASSWORD"],
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
    }


class Teller(unittest.TextTestResult):
    """Subtests count for their test."""

    def tell(self, test: Any, outcome: str) -> None:
        with open(os.environ["COMPAT_OUTCOMES"], "a", encoding="utf-8") as file:
            file.write(json.dumps([test.id(), outcome]) + "\n")

    def addSuccess(self, test: Any) -> None:
        self.tell(test, "passed")
        super().addSuccess(test)

    def addFailure(self, test: Any, err: Any) -> None:
        self.tell(test, "failed")
        super().addFailure(test, err)

    def addError(self, test: Any, err: Any) -> None:
        self.tell(test, "error")
        super().addError(test, err)

    def addSkip(self, test: Any, reason: str) -> None:
        self.tell(test, "skipped")
        super().addSkip(test, reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.tell(test, "xfailed")
        super().addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.tell(test, "xpassed")
        super().addUnexpectedSuccess(test)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.tell(test, "failed")
        super().addSubTest(test, subtest, err)


class Runner(DiscoverRunner):
    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return Teller


TEST_RUNNER = "compat_django.Runner"
DATABASES = {"default": database("compat"), "other": database("compat_other")}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
