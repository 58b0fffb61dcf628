"""An export on the Hugging Face hub, with the login that huggingface_hub keeps."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import HfApi, RepoCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from penchant.errors import HubError
from penchant.runs.export import CARD, Card, export
from penchant.runs.folder import RunFolder
from penchant.runs.forms import Form


def push(folder: RunFolder, repository: str, *, form: Form, private: bool, card: Card) -> str:
    """Export a run and upload it; what the repository held before stays in its history.

    Args:
        folder: The run.
        repository: `owner/name`; made if it is missing.
        form: What to upload.
        private: Make it so that only its owner sees it; a public one that exists is refused.
        card: Writes the text of README.md.

    Returns:
        Address of the new commit.

    Raises:
        HubError: Not logged in, not allowed, or the hub cannot be reached; nothing was uploaded then.
        PenchantError: As `export`.
    """
    _require_name(repository)
    api = HfApi()
    with _sentences(repository):
        api.whoami()  # before the work of the export
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".push-") as scratch:
        place = Path(scratch) / repository.partition("/")[2]
        export(folder, form=form, to=place, card=card, name=repository)
        with _sentences(repository):
            _require_card((place / CARD).read_text(encoding="utf-8"), repository)
            api.create_repo(repository, private=private or None, exist_ok=True)
            if private and not api.model_info(repository).private:
                raise HubError(
                    f"--private: {repository} exists and is public. Make it private on its page on the hub, "
                    "or give another name."
                )
            disable_progress_bars()
            return api.upload_folder(
                repo_id=repository, folder_path=place, commit_message=f"Add {form} weights by Penchant"
            ).commit_url


def _require_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if repository.count("/") != 1:
        raise HubError(
            "OWNER/NAME: must be an owner and a name on the hub, of letters, digits, '-', '_' and '.'. Give, "
            "for example, your-name/my-model."
        )


def _require_card(text: str, repository: str) -> None:
    """Ask the hub if it takes the head of a card, before a repository is made for it."""
    try:
        RepoCard(text).validate(repo_type="model")
    except ValueError as error:
        raise HubError(
            f"{repository}: the hub refuses the head of the model card ({_reasons(str(error))}). Use "
            f"`penchant export`, correct the head of {CARD}, and upload the folder with `hf upload`."
        ) from error


def _reasons(answer: str) -> str:
    """What the hub objects to, out of its answer if that has its usual form."""
    with suppress(ValueError, KeyError, TypeError):
        answer = "; ".join(found["message"] for found in json.loads(answer)["errors"]) or answer
    return " ".join(answer.split())


@contextmanager
def _sentences(repository: str) -> Iterator[None]:
    """Turn what the hub or the network says into one sentence with a way out."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise HubError(
            f"{repository}: not logged in to the hub. Log in with `hf auth login`, or set HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        match error.response.status_code:
            case 401:
                problem = "the hub does not know this login. Log in anew with `hf auth login`."
            case 403 | 404:
                problem = (
                    "the login may not write there. Give a repository of your own, or a token with the right "
                    "to write."
                )
            case _:
                problem = f"the hub refused ({str(error).splitlines()[0]}). Try again later."
        raise HubError(f"{repository}: {problem}") from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise HubError(
            f"{repository}: the hub cannot be reached. Check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), "
            "or use `penchant export` and upload the folder later."
        ) from error
    except UnicodeEncodeError as error:
        raise HubError(
            f"{repository}: the token holds a letter that no token has. Log in anew with `hf auth login`, or "
            "correct HF_TOKEN."
        ) from error
    except ValueError as error:  # of the reader of JSON, mostly
        raise HubError(
            f"{repository}: what answers is not a hub ({' '.join(str(error).split())}). Check if the network "
            "asks for a login of its own (and HF_ENDPOINT), or use `penchant export` and upload the folder "
            "later."
        ) from error
