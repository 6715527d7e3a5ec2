"""Is the Python that stands here the one that the C++ was written after?

net.py, utils/losses.py and utils/training/optimizers.py say what trains. utils/native/ computes the same faster, and so
do softmax.py and fused.py in utils/training/. They were written after the definitions whose digests sources.json has,
and are used only where those that a run needs are still the same. A digest is that of a definition's syntax tree, by
which comments, docstrings and formatting don't count. Whoever changes a definition and its faster form records the
digests anew:

    python utils/sources.py
"""

import ast
import functools
import hashlib
import json
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NET, LOSSES, OPTIMIZERS = FILES = "net.py", "utils/losses.py", "utils/training/optimizers.py"
RECORD = Path(__file__).with_suffix(".json")
BESIDE = "statements beside definitions"  # what a file does as it is loaded, such as replacing a method
FUNCTION = ast.FunctionDef, ast.AsyncFunctionDef
# How weights are drawn, and which losses there are: no faster form computes that.
FREE = "glorot_uniform", "FUNCTIONS"
# What stands for what: pairs of a file and a definition in it, a class, a method or a function.
NETWORK, SCORES, INTENT = (NET, "Network"), (NET, "Network.scores"), (NET, "IntentNetwork")
FULL_LOSS = [SCORES, (LOSSES, "cross_entropy"), (NET, "Network.loss")]  # the loss itself comes last
APART = {NETWORK: ("Network.scores", "Network.loss")}  # methods of a class that are compared by themselves


class Source:
    """The definitions of a Python file.

    trees : dict of str to list of ast.AST, by the name of a function, a variable or what is imported, by Class.method,
        by Class.class for what else stands in a class, and by BESIDE
    """

    def __init__(self, text):
        self.trees = defaultdict(list)
        for statement in _without_docstring(ast.parse(text).body):
            if isinstance(statement, FUNCTION):
                self.trees[statement.name].append(statement)
            elif isinstance(statement, ast.ClassDef):
                self._add_class(statement)
            elif isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._add_import(statement)
            else:
                for name in _assigned(statement) or [BESIDE]:
                    self.trees[name].append(statement)

    def _add_import(self, statement):
        for alias in statement.names:
            one = ast.Import([alias])
            if isinstance(statement, ast.ImportFrom):
                one = ast.ImportFrom(statement.module, [alias], statement.level)
            name = alias.asname or alias.name.partition(".")[0]
            trees = self.trees[BESIDE if name == "*" else name]
            if _plain([one]) != _plain(trees[-1:]):  # a second time, as at the head of what is appended to a file
                trees.append(one)

    def _add_class(self, statement):
        of_class, rest = self.trees[f"{statement.name}.class"], []
        for part in _without_docstring(statement.body):
            if isinstance(part, FUNCTION):
                self.trees[f"{statement.name}.{part.name}"].append(part)
            else:
                rest.append(part)
        of_class.append(ast.ClassDef(statement.name, statement.bases, statement.keywords, rest,
                                     statement.decorator_list))

    @functools.cached_property
    def digests(self):
        """The digest of each definition, a dict of str by name."""
        return {name: hashlib.sha256(repr(_plain(trees)).encode()).hexdigest()[:16]
                for name, trees in self.trees.items()}

    def reached(self, root, apart=()):
        """The names of a definition and of all others that it uses in this file, but for those `apart`: a set."""
        waiting, found = [root, BESIDE], set()
        while waiting:
            name = waiting.pop()
            if name in found or name in apart or name in FREE:
                continue
            waiting += [method for method in self.trees if method.startswith(f"{name}.")]
            if name in self.trees:
                found.add(name)
                waiting += self._used_by(name)
        return found

    def _used_by(self, name):
        """Names that a definition mentions, and of a method also what it may use of its class."""
        nodes = [node for tree in self.trees[name] for node in ast.walk(tree)]
        yield from {node.id for node in nodes if isinstance(node, ast.Name)}
        owner, _, method = name.partition(".")
        if method:
            yield f"{owner}.class"
            yield from (f"{owner}.{node.attr}" for node in nodes if isinstance(node, ast.Attribute))


def _without_docstring(body):
    has_one = body and isinstance(body[0], ast.Expr) and isinstance(getattr(body[0].value, "value", None), str)
    return body[1:] if has_one else body


def _assigned(statement):
    """The names that an assignment gives values to; none where it does something else as well."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return []
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [part.id for part in parts] if all(isinstance(part, ast.Name) for part in parts) else []


def _plain(part):
    """A syntax tree as lists, the same in all versions of Python: fields that are empty, as new ones are, don't count.
    """
    if isinstance(part, list):
        return [_plain(value) for value in part]
    if not isinstance(part, ast.AST):
        return part
    fields = {name: getattr(part, name, None) for name in part._fields}
    if isinstance(part, (*FUNCTION, ast.ClassDef)):
        fields["body"] = _without_docstring(part.body)
    return [type(part).__name__, *([name, _plain(value)] for name, value in fields.items() if value not in (None, []))]


@functools.cache
def source_of(file):
    """The Source of one of FILES as it stands here."""
    return Source((ROOT / file).read_text(encoding="utf-8"))


def sampled_loss(function):
    """The definitions of a loss over a sample that is a `function` of losses.FUNCTIONS."""
    return [SCORES, (LOSSES, "Loss"), (_file_of(function), getattr(function, "__name__", "a function"))]


def optimizer(kind):
    """The definitions of an optimiser, a class."""
    return [(_file_of(kind), kind.__name__)]


def _file_of(definition):
    return f"{definition.__module__.replace('.', '/')}.py"


def edits(definitions):
    """What of some definitions, pairs of file and name, isn't as it was recorded: a list of str, one of each file.

    What is new is named where nothing that was there is edited: a new function counts as what uses it.
    """
    edited, new = defaultdict(list), defaultdict(list)
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    for file, name in definitions:
        reached = _reached(file, name)
        if not reached - {BESIDE}:
            new[file].append(name)
            continue
        source, then = source_of(file), recorded[file]
        for part in sorted(reached, key=list(source.trees).index):
            if source.digests[part] != then.get(part):
                found = edited if part in then or part == BESIDE else new
                found[file].append(f"class {part[:-6]}" if part.endswith(".class") else part)
    kind, parts = ("edited", edited) if edited else ("new", new)
    return [f"{file}: {', '.join(dict.fromkeys(names))} {kind}" for file, names in parts.items()]


def _reached(file, name):
    return source_of(file).reached(name, APART.get((file, name), ())) if file in FILES else set()


def checksum(definitions):
    """SHA-256 of all that some definitions, pairs of file and name, use in their files."""
    found = {(file, part, source_of(file).digests[part]) for file, name in definitions for part in _reached(file, name)}
    return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()


def record():
    """What sources.json has to hold for the files as they stand here: a str."""
    return json.dumps({file: source_of(file).digests for file in FILES}, indent=1) + "\n"


if __name__ == "__main__":
    RECORD.write_text(record(), encoding="utf-8")
