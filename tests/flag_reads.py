"""Which flags of a script are read on its way: by what is called after its command line was parsed and checked."""

import ast
import functools

from conftest import ROOT

NAMESPACES = "options", "flags", "given"  # what the parsed command line is called
CHECKS = "parse_", "check", "add_"  # functions that begin so define flags or refuse values, and act on none


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_of(script):
    """The script and all modules of this project that it imports somewhere, with others that those import: paths."""
    waiting, found = [ROOT / script], set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += filter(lambda path: path.exists(), imported(tree_of(path)))
    return found


def imported(tree):
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name}" for name in names)]
        yield from (ROOT / f"{name.replace('.', '/')}.py" for name in names)


def flags_read(tree):
    """The names that a module reads from a namespace of flags, outside of what parses and checks them."""
    constants = {target.id: texts(node.value) for node in tree.body if isinstance(node, ast.Assign)
                 for target in node.targets if isinstance(target, ast.Name)}
    for part in acting_parts(tree):
        for node in ast.walk(part):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and is_namespace(node.value):
                yield node.attr
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and is_namespace(node.args[0]):
                yield from names_in(part, node.args[1], constants)


def acting_parts(tree):
    """Functions, methods and what else a module has, without the functions that parse and check."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from node.body
        elif not (isinstance(node, ast.FunctionDef) and node.name.lstrip("_").startswith(CHECKS)):
            yield node


def is_namespace(node):
    return getattr(node, "id", getattr(node, "attr", "")) in NAMESPACES


def names_in(part, name, constants):
    """What `getattr(options, name)` may read: the name itself, or those in the lists that the function mentions."""
    if isinstance(name, ast.Constant):
        yield name.value
        return
    for node in ast.walk(part):
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            yield from texts(node)
        if isinstance(node, ast.Name):
            yield from constants.get(node.id, ())


def texts(node):
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def unread(flags, trees):
    """Those of the names of flags that none of the modules reads, sorted."""
    return sorted(set(flags) - {name for tree in trees for name in flags_read(tree)})
