"""What requests say of the items to choose from and of their fields; mistakes in it are refused with 400."""

import numpy as np
from msgspec import UNSET

from utils.data.item_filter import parse_filter, require_columns, require_few
from utils.serving import http_messages as messages
from utils.serving.http_input import Refused

IDS_OF_ONE = 500  # ids to exclude or allow; so many in a waiting request count as one more session, for their memory


def counted(asked):
    """How many sessions a messages.SessionsToAnswer counts as while it waits."""
    return len(asked.sessions) + (len(asked.exclude) + (0 if asked.allow is UNSET else len(asked.allow))) // IDS_OF_ONE


def clicked_to_exclude(asked, default):
    """Which items of a session are left out: `last`, `seen` or `none`, as the request says, or else the default."""
    if asked.exclude_clicked is not UNSET:
        return asked.exclude_clicked
    return default if asked.exclude_seen is UNSET else ("none", "seen")[asked.exclude_seen]


def excluded(asked, clicks, which):
    """The item ids that are left out of the answer to a session."""
    return asked.exclude + {"last": clicks[-1:], "seen": clicks, "none": []}[which]


def wanted_of(part, asked):
    """The filter of a request, a dict as in item_filter.py, or None."""
    if asked.filter is UNSET:
        return None
    try:
        if isinstance(asked.filter, str):
            return parse_filter(asked.filter)
        return require_few({name: [str(value) for value in (values if isinstance(values, list) else [values])]
                            for name, values in asked.filter.items()})
    except ValueError as error:
        raise Refused(400, f"{part}.filter", str(error)) from None


def require_fields(part, model, wanted, asked):
    """Refused where a filter or the `fields` of a request need columns that the model's items don't have."""
    for what, names in (("filter", wanted), ("fields", asked.fields)):
        if not names:
            continue
        if model.fields is None:
            raise Refused(400, f"{part}.{what}", "found some, expected none: this server knows no fields (--items)")
        try:
            require_columns(model.fields, names)
        except ValueError as error:
            raise Refused(400, f"{part}.{what}", str(error)) from None


def shown_fields(part, asked, answers):
    """For each of the Answers its `fields` in the reply; Refused where they are larger than a reply may be."""
    if not asked.fields:
        return [UNSET] * len(answers)
    found, size, fields = [], 0, answers[0].model.fields
    for answer in answers:
        items = np.array([answer.model.index_of[item_id] for item_id in answer.item_ids], np.int64)
        size += sum(fields.size(name, items) + messages.FIELD_BYTES * len(items) for name in asked.fields)
        if size > messages.MAX_FIELD_BYTES:
            raise Refused(400, f"{part}.fields", f"found more than {messages.MAX_FIELD_BYTES} bytes of them in the "
                          "reply, expected fewer items, fields or sessions")
        found.append({name: fields.values(name, items) for name in asked.fields})
    return found
