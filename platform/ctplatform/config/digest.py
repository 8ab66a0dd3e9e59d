"""Hash that names a configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def config_hash(*sections: BaseModel | Mapping[str, Any] | str) -> str:
    """Twelve hex digits that name a configuration; equal values give equal names."""
    plain = [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
