"""Http: a scorer behind a web address, in an environment of its own.

Axes: N images, 3 channels, H W pixels.
"""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from ipaddress import ip_address
from typing import Final, final
from urllib.parse import urlsplit

from jaxtyping import Float
from torch import Tensor

from penchant.errors import RewardError
from penchant.rewards._remote import asked_in_batches, scores_in

logger = logging.getLogger(__name__)

_LONGEST_ANSWER: Final = 1 << 22
_LONGEST_WAIT: Final = 60.0
_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Status codes after which the same question may be answered."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """POST of images and prompts to a web address, which answers with scores.

    A scorer that is down, busy or too slow is asked again, each time after twice as long a wait.

    Attributes:
        url: Address, beginning with http:// or https://.
        name: Name under which the scores are stored.
        revision: Change it when the scorer changes, so that stored scores are not taken for new ones.
        unit: Unit of the score.
        batch_size: Images per question; >= 1.
        timeout: Seconds until a whole answer must be there; > 0.
        retries: How often a question is asked again; >= 0.
        wait: Seconds before it is first asked again; >= 0.
        judges: False if the score only describes an image.
    """

    url: str
    name: str
    revision: str = ""
    unit: str = "points"
    batch_size: int = 8
    timeout: float = 60.0
    retries: int = 3
    wait: float = 1.0
    judges: bool = True

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ValueError(f"url must begin with http:// or https:// and name a host, got {self.url!r}")
        if not self.url.isascii() or any(letter.isspace() for letter in self.url):
            raise ValueError(f"url must be ASCII without spaces, others as %XX, got {self.url!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be > 0, got {self.timeout}")
        if self.retries < 0:
            raise ValueError(f"retries must be >= 0, got {self.retries}")
        if self.wait < 0:
            raise ValueError(f"wait must be >= 0, got {self.wait}")

    @property
    def version(self) -> str:
        """The address, and the revision."""
        return f"{self.url} {self.revision}".strip()

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, as the scorer answers."""
        return asked_in_batches(images, prompts, self._ask, batch_size=self.batch_size)

    def _ask(self, question: bytes, count: int) -> Float[Tensor, " n"]:
        where, reason = f"reward {self.name}: {self.url}", ""
        for attempt in range(self.retries + 1):
            try:
                return scores_in(self._posted(question), count=count, where=where)
            except (OSError, HTTPException) as error:
                reason = self._reason(error, count, where)
            if attempt < self.retries:
                pause = min(self.wait * 2**attempt, _LONGEST_WAIT)
                logger.warning("%s: %s; asked again in %g s", where, reason, pause)
                time.sleep(pause)
        raise RewardError(
            f"{where}: {reason}, asked {self.retries + 1} times. Start the scorer, or raise timeout, retries "
            "or wait."
        )

    def _reason(self, error: Exception, count: int, where: str) -> str:
        """Why there is no answer; a refusal that will not change is raised."""
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            reason = f"answers {error.code} {error.reason}"
            if error.code in _LATER:
                return reason
            raise RewardError(f"{where}: {reason}. Check the address and what the scorer logs.") from error
        inner = error.reason if isinstance(error, urllib.error.URLError) else error
        slow = isinstance(inner, TimeoutError)
        return f"no answer within {self.timeout:g} s for {count} images" if slow else f"no answer ({inner})"

    def _posted(self, question: bytes) -> bytes:
        """The body of the answer; the time-out counts for all of it, also if it trickles."""
        end = time.monotonic() + self.timeout
        request = urllib.request.Request(
            self.url, data=question, headers={"Content-Type": "application/json"}, method="POST"
        )
        proxies = [urllib.request.ProxyHandler({})] if _is_here(urlsplit(self.url).hostname) else []
        with urllib.request.build_opener(*proxies).open(request, timeout=self.timeout) as response:
            body = b""
            while piece := response.read1(1 << 16):
                body += piece
                if time.monotonic() > end:
                    raise TimeoutError
                if len(body) > _LONGEST_ANSWER:
                    raise RewardError(
                        f"reward {self.name}: {self.url}: too long an answer, got more than "
                        f"{_LONGEST_ANSWER} bytes."
                    )
            if response.length:  # what is left of a length that was told, which `read1` leaves to us
                raise IncompleteRead(body, response.length)
            return body


def _is_here(host: str | None) -> bool:
    """True for this machine, which no proxy reaches."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


REWARD = Http
