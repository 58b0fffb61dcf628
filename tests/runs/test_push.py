"""Uploads, against a stand-in of the hub on this machine: what arrives, and what is said when it cannot."""

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from tests import small

from penchant.errors import HubError, RunFolderError
from penchant.runs.export import CARD, LIST
from penchant.runs.folder import RunFolder
from penchant.runs.forms import Form
from penchant.runs.push import push

TOKEN = "hf_stand_in"
NAME = "me/cats"


class Hub:
    """The few answers that an upload needs: repositories, whether they are private, and their files."""

    def __init__(self):
        self.private, self.files, self.asked, self.refuse, self.address = {}, {}, [], None, ""
        self.objections, self.page = [], None

    def answer(self, path, body):
        name = "/".join(path.split("/")[3:5])
        match path.split("/")[2:]:
            case ["whoami-v2"]:
                return {"name": "me", "type": "user", "auth": {}}
            case ["repos", "create"]:
                wanted = json.loads(body)
                name = (
                    f"{wanted['organization']}/{wanted['name']}"
                    if wanted.get("organization")
                    else f"me/{wanted['name']}"
                )
                private = wanted.get("private") or wanted.get("visibility") == "private"
                existed = name in self.private
                self.private.setdefault(name, bool(private))
                return {"url": f"{self.address}/{name}"} | ({"error": "exists"} if existed else {})
            case ["models", _, _]:
                return {"id": name, "private": self.private[name], "tags": [], "siblings": []}
            case ["validate-yaml"]:
                return {"errors": [{"message": message} for message in self.objections], "warnings": []}
            case ["models", _, _, "preupload", "main"]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
                return {"files": files}
            case ["models", _, _, "commit", "main"]:
                for line in body.decode().splitlines():
                    row = json.loads(line)
                    if row["key"] == "file":
                        self.files[f"{name}/{row['value']['path']}"] = base64.b64decode(
                            row["value"]["content"]
                        )
                return {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1", "success": True}
        raise AssertionError(path)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    stand_in = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            stand_in.asked.append(path)
            code = 200
            is_public = path.endswith("validate-yaml")
            if not is_public and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                code, found = 401, {"error": "Invalid username or password."}
            elif stand_in.refuse and path.endswith(stand_in.refuse[0]):
                code, found = stand_in.refuse[1], {"error": "no"}
            else:
                try:
                    found = stand_in.answer(path, body)
                    code = 409 if "error" in found else 400 if found.get("errors") else 200
                except KeyError:
                    code, found = 404, {"error": "Repository not found"}
            content = stand_in.page or json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    stand_in.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stand_in.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield stand_in
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_pairs, tmp_path_factory):
    folder = small.untrained(
        small.run_options(tiny_model, tiny_pairs, tmp_path_factory.mktemp("run") / "out", {})
    )
    folder.adapter.mkdir()
    tensors = {"unet.a.lora_A.weight": torch.ones(2, 4), "unet.a.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, folder.adapter / "pytorch_lora_weights.safetensors")
    return folder


def pushed(folder, name=NAME, *, private=False):
    return push(folder, name, form=Form.DIFFUSERS, private=private, card=lambda *of: "# Card\n")


def test_the_files_arrive_with_card_and_list(finished, hub):
    assert pushed(finished) == f"{hub.address}/me/cats/commit/1"
    assert hub.private == {NAME: False}
    assert hub.files.keys() == {f"{NAME}/{n}" for n in ("pytorch_lora_weights.safetensors", CARD, LIST)}
    listed = json.loads(hub.files[f"{NAME}/{LIST}"])["files"]
    assert hub.files[f"{NAME}/{CARD}"] == b"# Card\n" and CARD in listed
    assert not list(finished.path.glob(".push-*"))


def test_private_means_private(finished, hub):
    pushed(finished, private=True)
    assert hub.private == {NAME: True} and hub.files
    hub.private, hub.files = {NAME: False}, {}
    with pytest.raises(HubError) as caught:
        pushed(finished, private=True)
    assert str(caught.value) == (
        "--private: me/cats exists and is public. Make it private on its page on the hub, or give another "
        "name."
    )
    assert hub.files == {}


def test_a_repository_that_exists_gets_another_commit(finished, hub):
    hub.private[NAME] = True
    pushed(finished)
    assert hub.files and hub.private == {NAME: True}


@pytest.mark.parametrize("name", ["cats", "a/b/c", "me/", "me/ca ts", "me/--x", "../x"])
def test_a_name_that_cannot_be_one_is_refused_before_all_else(finished, hub, name):
    with pytest.raises(HubError, match=r"^OWNER/NAME: must be an owner and a name on the hub"):
        pushed(finished, name)
    assert hub.asked == []


NO_RIGHT = "the login may not write there. Give a repository of your own, or a token with the right to write."


@pytest.mark.parametrize(
    ("token", "refuse", "sentence"),
    [
        (None, None, "not logged in to the hub. Log in with `hf auth login`, or set HF_TOKEN."),
        ("hf_old", None, "the hub does not know this login. Log in anew with `hf auth login`."),
        (
            "hf_ü",
            None,
            "the token holds a letter that no token has. Log in anew with `hf auth login`, or correct "
            "HF_TOKEN.",
        ),
        (TOKEN, ("repos/create", 403), NO_RIGHT),
        (TOKEN, ("preupload/main", 404), NO_RIGHT),
    ],
)
def test_a_login_that_does_not_do(finished, hub, monkeypatch, tmp_path, token, refuse, sentence):
    hub.refuse = refuse
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as caught:
        pushed(finished)
    assert str(caught.value) == f"me/cats: {sentence}"
    assert hub.files == {}


def test_a_hub_in_trouble(finished, hub):
    hub.refuse = ("commit/main", 422)
    with pytest.raises(HubError, match=r"^me/cats: the hub refused \(.*422.*\)\. Try again later\.$"):
        pushed(finished)


def test_a_card_that_the_hub_refuses_makes_no_repository(finished, hub):
    hub.objections = ['"license" must be one of [mit, other]', '"tags" must be short']
    with pytest.raises(HubError) as caught:
        pushed(finished)
    assert str(caught.value) == (
        'me/cats: the hub refuses the head of the model card ("license" must be one of [mit, other]; "tags" '
        "must be short). Use `penchant export`, correct the head of README.md, and upload the folder with "
        "`hf upload`."
    )
    assert hub.private == hub.files == {}


def test_a_page_that_stands_before_the_hub(finished, hub):
    hub.page = b"<html>Welcome to our guests' network</html>"
    with pytest.raises(
        HubError, match=r"^me/cats: what answers is not a hub \(.*\)\. Check if the network asks"
    ):
        pushed(finished)


def test_no_network(finished, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"^me/cats: the hub cannot be reached\. Check the network"):
        pushed(finished)


def test_the_run_is_asked_for_weights_before_a_repository_is_made(finished, hub, tmp_path):
    copy = RunFolder(shutil.copytree(finished.path, tmp_path / "run"))
    shutil.rmtree(copy.adapter)
    with pytest.raises(RunFolderError, match="is missing"):
        pushed(copy)
    assert hub.private == {}
