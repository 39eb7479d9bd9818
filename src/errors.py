"""Errors that a person can act on, and the frame every entry script runs in."""
import contextlib
import os
import sys


class UserError(Exception):
    """A mistake of the user's, or of the data: the message says what, where and what to do."""


def run(main):
    """Call main(), which may return an exit code; a UserError, a missing file or an interrupt ends in one sentence and code 2 (130)."""
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        sys.exit(_say(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        sys.exit(_say(f"{error.strerror or error}{where}"))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def reason(error):
    """Why a file could not be used, in words: an OSError without its number and path, which the caller names."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _say(message):
    print(f"error: {message}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def about(path):
    """Put a file's name before the UserErrors of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@contextlib.contextmanager
def writing(path):
    """Turn an OSError of the block, which writes a file, into a UserError: a write's own does not name the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} could not be written ({reason(error)})") from error


def require_file(path, what):
    """Return path if it is a file, else raise UserError that names it and what it should have been."""
    if not path:
        raise UserError(f"no {what} given")
    if not os.path.isfile(path):
        raise UserError(f"{what} not found: {path}")
    return path


def require_dir(path, what):
    """Return path if it is a folder, else raise UserError that names it and what it should have been."""
    if not path:
        raise UserError(f"no {what} given")
    if not os.path.isdir(path):
        raise UserError(f"{what} not found: {path}")
    return path
