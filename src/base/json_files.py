"""Reading a JSON file that the user gave: every fault of the file itself is one clear line. Standard library only."""

import json
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.text_files import read_text


def load_json(path: Path) -> Any:
    """The file's content. Raises InputError where the file cannot be read, is not UTF-8, not JSON, or cut off."""
    text = read_text(Path(path), "JSON")
    try:
        content = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half a surrogate pair is JSON, but could not be written to any file
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        return content
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); damaged or cut off? "
            "get the file again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not usable JSON ({error}); get the file again") from None


def list_of(content: Any, key: str, path: Path) -> list[dict]:
    """The list of objects under `key`. Raises InputError where the content has another shape."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f'{path}: expected an object with a list "{key}"; is it another file of the data set?')
    strange = next((position for position, entry in enumerate(entries, 1) if not isinstance(entry, dict)), None)
    if strange is not None:
        raise InputError(f'{path}: entry {strange} of "{key}" is not an object; get the file again')
    return entries


def id_text(value: Any) -> str:
    """A photo's number or name as text, so that 5 and "5" are the same photo; "" where it is neither."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""
