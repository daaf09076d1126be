"""Secrets: keys of providers, tokens, passwords that were assigned; and the places where one would go."""

from __future__ import annotations

import pytest

from luthier.security.pii import find
from luthier.security.secrets import entropy

LETTERS = "aB3dE5fG7hJ9kL2mN4pQ6rS8tU1vW3xY5zA7bC9dE2fG4hJ6kL8mN1pQ3rS5tU7v"


def found(text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.type) for s in find(text)]


# Put together here, so that no scanner takes this file for one that leaks.
KEYS = [
    "AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + LETTERS[:36], "github_pat_" + LETTERS + "_" + LETTERS[:18], "glpat-" + LETTERS[:20], "xoxb-" + "123456789012-" + LETTERS[:24],
    "sk_live_" + LETTERS[:24], "AIza" + LETTERS[:35], "sk-ant-" + "api03-" + LETTERS[:60], "sk-proj-" + LETTERS[:48], "hf_" + LETTERS[:34].replace("3", "x"), "npm_" + LETTERS[:36],
    "SG." + LETTERS[:22] + "." + LETTERS[:43], "dop_v1_" + "0123456789abcdef" * 4, "https://hooks.slack.com/" + "services/T0000/B0000/" + LETTERS[:30],
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_known_by_their_prefix(key):
    assert found(f'client = Client("{key}")') == [(key, "api_key")]


def test_private_keys_are_found_whole_and_when_cut_off():
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----"
    assert found(f"a {key} b") == [(key, "private_key")]
    cut = key[: key.index("-----END")]
    assert found(f"a {cut}") == [(cut, "private_key")]
    assert found("-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----") == []


def test_a_web_token_is_found():
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert found(f"Cookie: {token};") == [(token, "jwt")]


@pytest.mark.parametrize(("text", "secret"), [
    ("password: hunter2!", "hunter2!"), ("my password is Tr0ub4dor&3", "Tr0ub4dor&3"), ("DB_PASSWORD='corr3ct-h0rse'", "corr3ct-h0rse"), ('"passwd": "x9!kfLq"', "x9!kfLq"),
])  # fmt: skip
def test_passwords_are_found_and_their_names_stay(text, secret):
    assert found(text) == [(secret, "password")]


@pytest.mark.parametrize(
    "text", ["API_KEY='9f8a7b6c5d4e3f2a1b0c'", "Authorization: Bearer 9f8a7b6c5d4e3f2a1b0c", "client_secret => 9f8a7b6c5d4e3f2a1b0c"]
)
def test_what_looks_random_and_is_called_a_secret_is_found(text):
    assert found(text) == [("9f8a7b6c5d4e3f2a1b0c", "token")]


@pytest.mark.parametrize("text", [
    "password: ${PASSWORD}", "password = <your password>", "API_KEY=os.environ['API_KEY']", "token: xxxxxxxxxxxxxxxxxxxx", "forgot my password, it is terrible",
    "the secret is patience", "key: value", "max_tokens: 4096", "password: [PASSWORD]", "https://user:${TOKEN}@host/", "Donaudampfschifffahrtsgesellschaft", "basic training is hard",
])  # fmt: skip
def test_places_for_secrets_and_talk_of_them_are_left_alone(text):
    assert found(text) == []


def test_credentials_of_an_address_are_found_and_its_host_stays():
    assert found("git clone https://bob:s3cr@t@host.example/x.git") == [("bob:s3cr@t", "credentials")]
    assert found("https://host.example:8080/a@b") == []


def test_entropy_is_shannons():
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
    assert entropy("") == 0
