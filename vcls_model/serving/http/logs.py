"""The service's log: a JSON object per line, those of requests with their number."""

import logging
import time
from typing import Any

import orjson

REQUESTS = "vcls_model.requests"


class JsonLines(logging.Formatter):
    """Time, level, logger and message, with the fields that `log_fields` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def log_lines_of_json() -> None:
    """Makes what goes to the root logger's handlers lines of JSON, requests among them."""
    logging.getLogger(REQUESTS).setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())


def log_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """What `extra` of a logging call takes."""
    return {"fields": fields}
