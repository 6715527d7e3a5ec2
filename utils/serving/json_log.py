"""The server's log: a line of JSON for each record. Workers load this before anything that might have to log."""

import logging
import traceback

import msgspec

STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, message, process, and the fields of its `extra`."""

    def format(self, record):
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage(),
                "process": record.process}
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return encode(line).decode()


def log_settings():
    """Settings for logging.config.dictConfig: JSON lines on stderr, also for the web server."""
    return {"version": 1, "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "loggers": {"gru4rec": {"level": "INFO"}},
            "root": {"handlers": ["stderr"], "level": "WARNING"}}
