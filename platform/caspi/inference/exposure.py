"""Who can reach an address, and whether an endpoint may listen there."""

import ipaddress

from caspi.errors import RequestError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than `localhost` may lead anywhere."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, *, has_keys: bool, allow_anonymous: bool = False) -> None:
    """Refuse an endpoint that everyone could use.

    Raises:
        RequestError: `host` is open to the network, and there are no keys.
    """
    if not (is_loopback(host) or has_keys or allow_anonymous):
        raise RequestError(
            f"{host} is open to the network, and no API keys are set; set CASPI_API_KEYS or CASPI_API_KEYS_FILE, "
            "or serve on 127.0.0.1, or say `allow_anonymous: true` if something in front asks for keys"
        )
