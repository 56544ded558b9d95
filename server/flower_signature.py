"""The signature of a node that speaks Flower alone, checked before a byte of its request is read."""

from __future__ import annotations

import binascii
import datetime
from base64 import b64decode
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from tacit.server.gate import Refusal


def check_flower_signature(headers: Mapping[str, str], state: LinkState) -> bytes:
    """Return the public key of who asks on Flower's own routes, and leave the rest to Flower.

    Flower looks only after it has read the body, so that without this anybody could fill the memory.

    Raises:
        Refusal: 401, as nobody who was admitted has signed it.
    """
    try:
        key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        if state.get_node_id_by_public_key(key) is None:
            raise ValueError
        stamp = headers[TIMESTAMP_HEADER]
        datetime.datetime.fromisoformat(stamp)
        if not verify_signature(bytes_to_public_key(key), stamp.encode("ascii"), signature):
            raise ValueError
        return key
    except (KeyError, TypeError, ValueError, UnsupportedAlgorithm, binascii.Error):
        raise Refusal(401, "not signed by a node of this federation") from None
