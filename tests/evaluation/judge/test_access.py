"""Keys, addresses and proxies as shells hold them: a sentence each, and nothing secret shown."""

import pytest

from dpg.errors import DpgError
from dpg.evaluation.judge import OpenAIJudge
from dpg.evaluation.judge.access import open_client, proxies, public, read_key, server_address

SECRET = "s3cr3t"


@pytest.mark.parametrize("value", [None, "", "  ", "\n"])
def test_no_key_names_the_variable_and_the_offline_judge(tmp_path, monkeypatch, value):
    if value is None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    else:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(DpgError, match=r"OPENAI_API_KEY is not set.*offline judge.*kind: offline"):
        OpenAIJudge(tmp_path / "cache.jsonl")


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("sk-s3cr3t\nsk-other", "a line break at place 10 of 18"),
        ("sk s3cr3t", "a blank at place 3"),
        ("Bearer sk-s3cr3t", "a blank at place 7"),
        ("\u201csk-s3cr3t\u201d", "a quotation mark at place 1"),
        ('"sk-s3cr3t"', "a quotation mark at place 1"),
        ("sk-s3cr3t\u00e4", "a character that is not ASCII at place 10"),
        ("\ufeffsk-s3cr3t", "a character that is not ASCII at place 1"),
        ("sk-s3cr3t\x1b[D", "a control character at place 10"),
    ],
)
def test_a_key_with_odd_characters_is_described_but_not_shown(bare, monkeypatch, shown, key, found):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(DpgError, match=r"OPENAI_API_KEY.*expected.*set the key again") as caught:
        read_key()
    assert found in str(caught.value)
    assert SECRET not in shown(caught.value)


def test_blanks_around_a_key_are_no_part_of_it(bare, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-x\u00a0\n")
    assert read_key() == "sk-x"


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("localhost:8000/v1", "does not begin with http://, https://"),
        ("htp://localhost:8000/v1", "does not begin with"),
        ("http:/localhost/v1", "does not begin with"),
        ("http:///v1", "names no host"),
        ("http://[::1/v1", "no valid host or port"),
        ("http://host:abc/v1", "no valid host or port"),
        ("http://host:99999/v1", "no valid host or port"),
        ("http://a b/v1", "a blank"),
        ("http://a\nb/v1", "a line break"),
        ("http://a..b/v1", "a host name that no server can have"),
        (f"http://{'a' * 70}.de/v1", "a host name that no server can have"),
        ("http://user:s3cr3t@host:abc/v1?key=s3cr3t", "no valid host or port"),
    ],
)
def test_a_malformed_address_is_named(bare, monkeypatch, shown, address, found):
    with pytest.raises(DpgError, match=r"judge: base_url .*expected a URL") as caught:
        server_address(address)
    assert found in str(caught.value)
    assert SECRET not in shown(caught.value)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(DpgError, match="judge: OPENAI_BASE_URL"):
        open_client(None, 1.0)


def test_the_setting_comes_before_the_variable_and_openai_last(bare, monkeypatch):
    assert server_address(None) == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "  ")
    assert server_address(None) == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1 \n")
    assert server_address(None) == "http://there/v1"
    assert server_address("http://here/v1") == "http://here/v1"
    assert str(open_client("http://here/v1", 1.0).base_url).rstrip("/") == "http://here/v1"


def test_what_may_be_secret_in_an_address_is_left_out():
    assert public("https://user:s3://cr@host:1/v1?key=x#y") == "https://host:1/v1"
    assert public("host:1/v1") == "host:1/v1"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("http://u:s3cr3t@host:abc", "no valid host or port"),
        ("http://u:s3cr3t@[::1", "no valid host or port"),
        (
            "socks://u:s3cr3t@host:1/",
            "does not begin with http://, https://, socks5://, socks5h://",
        ),
        (" http://host:1", "a blank"),
        ("http://host:1\n", "a line break"),
        ("http://", "names no host"),
        ("http://\u201chost..\u201d:1", "a host name that no server can have"),
    ],
)
def test_a_malformed_proxy_names_its_variable(bare, monkeypatch, shown, name, value, found):
    monkeypatch.setenv(name, value)
    with pytest.raises(DpgError, match=rf"judge: {name} .*expected.*correct {name}") as caught:
        open_client("http://127.0.0.1:9/v1", 1.0)
    assert found in str(caught.value)
    assert SECRET not in shown(caught.value)


def test_a_socks_proxy_needs_socksio(bare, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "socksio" else find(name, *a)
    )
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(
        DpgError, match=r"ALL_PROXY names a SOCKS proxy.*pip install socksio, or un"
    ):
        open_client("http://127.0.0.1:9/v1", 1.0)


@pytest.mark.parametrize("value", ["http://host:1", "host:1", "http://us\u00e4r:p%40@host:1/"])
def test_good_proxies_pass_and_no_proxy_star_turns_them_off(bare, monkeypatch, value):
    monkeypatch.setenv("HTTPS_PROXY", value)
    open_client("http://127.0.0.1:9/v1", 1.0)
    assert proxies() == {"HTTPS_PROXY": value}
    monkeypatch.setenv("ALL_PROXY", "nonsense://")
    monkeypatch.setenv("NO_PROXY", "localhost, *")
    open_client("http://127.0.0.1:9/v1", 1.0)
    assert proxies() == {}


@pytest.mark.parametrize("name", ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"])
def test_a_header_with_odd_characters_names_its_variable(bare, monkeypatch, shown, name):
    monkeypatch.setenv(name, "s3cr3t\u00e4")
    with pytest.raises(DpgError, match=rf"{name} has a character that no HTTP header") as caught:
        open_client(None, 1.0)
    assert SECRET not in shown(caught.value)


def test_several_custom_headers_are_several_lines(bare, monkeypatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "a: 1\nb: 2")
    open_client(None, 1.0)


def test_a_missing_certificate_file_names_its_variable(bare, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(DpgError, match=r"No such file.*environment variables.*SSL_CERT_FILE"):
        open_client("https://127.0.0.1:9/v1", 1.0)


def test_whatever_else_the_client_rejects_is_a_sentence(bare, monkeypatch, shown):
    import openai

    def fails(**_):
        raise RuntimeError(SECRET)

    monkeypatch.setenv("HTTP_PROXY", "http://u:s3cr3t@host:1")
    monkeypatch.setattr(openai, "OpenAI", fails)
    with pytest.raises(DpgError, match=r"no connection.*\(RuntimeError\).*HTTP_PROXY") as caught:
        open_client("http://127.0.0.1:9/v1", 1.0)
    assert SECRET not in shown(caught.value)
