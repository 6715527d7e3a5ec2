r"""Item ids of any text in files whose words are separated by blanks: session text and vocab.txt.

Blanks and control characters are written as `\` and their code point in hexadecimal between braces, such as `\{20}` for
a space, and `\` itself as `\\`. All other ids stand as they are.
"""

import re

ESCAPED = re.compile(r"[\s\\\x00-\x1f\x7f-\x9f\ufeff]")
ESCAPE = re.compile(r"\\(?:\\|\{([0-9a-f]{1,6})\})")


def escape(item_id):
    r"""An item id as one word of a file.

    >>> escape("red shoes")
    'red\\{20}shoes'
    """
    return ESCAPED.sub(lambda match: "\\\\" if match[0] == "\\" else f"\\{{{ord(match[0]):x}}}", item_id)


def unescape(word):
    r"""The item id that a word of a file stands for. A `\` that begins no escape stands for itself.

    >>> unescape("red\\{20}shoes")
    'red shoes'
    """
    return ESCAPE.sub(_character, word) if "\\" in word else word


def _character(match):
    if match[1] is None:
        return "\\"
    point = int(match[1], 16)
    return chr(point) if point < 0x110000 and not 0xD800 <= point < 0xE000 else match[0]
