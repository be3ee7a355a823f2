"""Tokens of services are masked wherever they stand; what only begins like one is not.

The formats are written down here again, independently of the patterns. The tokens are generated, so
that scanners do not report this file.
"""

import random
import re
import string

import pytest

from the_block_llm.pipelines.git_ingest.redaction.provider_tokens import token_formats
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor

_REDACTOR = Redactor(secrets=True, emails=False)
_LOWER, _UPPER, _DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
_ALPHABETS = {
    "h": "0123456789abcdef",
    "l": _LOWER + _DIGITS,
    "U": _UPPER + _DIGITS,
    "d": _DIGITS,
    "a": _LOWER + _UPPER,
    "A": _LOWER + _UPPER + _DIGITS,
    "u": _LOWER + _UPPER + _DIGITS + "_-",
    "b": _LOWER + _UPPER + _DIGITS + "+/",
}
# {h32}: 32 random characters of an alphabet above. A tilde only splits a prefix.
_TOKENS = {
    "adafruit": "aio~_{A28}", "adobe": "p8e~-{l32}", "age": "AGE-SECRET~-KEY-1{U58}",
    "airtable": "pat~{A14}.{h64}", "alibaba": "LTAI~{A20}", "anthropic": "sk-~ant-api03-{u93}AA",
    "asana": "1/12{d14}:{h32}", "atlassian": "ATATT~3x{u186}", "aws access": "AKIA~{U16}",
    "aws temporary": "ASIA~{U16}", "azure secret": "{u3}8Q~{u31}a2", "brevo": "xkeysib~-{h64}-{A16}",
    "buildkite": "bkua~_{h40}", "circleci": "CCIPAT~_{A22}_{h40}", "clojars": "CLOJARS~_{h60}",
    "contentful": "CFPAT~-{u43}", "crates.io": "cio~{A32}", "databricks": "dapi~{h32}",
    "deepseek": "sk-~{h32}", "digitalocean": "dop_~v1_{h64}", "digitalocean oauth": "doo_~v1_{h64}",
    "docker": "dckr_~pat_{u27}", "doppler": "dp.~pt.{A43}", "duffel": "duffel_~live_{u43}",
    "dynatrace": "dt0c01~.{U24}.{U64}", "easypost": "EZAK~{A54}", "facebook": "EAA~{A120}",
    "figma": "figd~_{u40}", "flutterwave": "FLWSECK~_TEST-{h32}-X", "fly": "fo1~_{u43}",
    "github": "ghp~_{A36}", "github app": "ghs~_{A36}", "github fine": "github_~pat_{A22}_{A59}",
    "gitlab": "glpat~-{u20}", "gitlab runner": "glrt~-{u20}", "gitlab trigger": "glptt~-{h40}",
    "google api": "AIza~{u35}", "google oauth": "GOCSPX~-{u28}", "google access": "ya29~.{u60}",
    "grafana": "glsa~_{A32}_{h8}", "groq": "gsk~_{A52}", "vault": "hvs~.{u90}", "terraform": "{A14}.atlasv1~.{u67}",
    "heroku": "HRKU~-{u60}", "hugging face": "hf~_{a34}", "infracost": "ico~-{A32}",
    "langsmith": "lsv2~_pt_{h32}_{h10}", "launchdarkly": "sdk~-{h8}-{h4}-4{h3}-8{h3}-{h12}",
    "linear": "lin_~api_{A40}", "mailchimp": "{h32}~-us12", "mailgun": "key-~{h32}",
    "mapbox": "sk.~eyJ{u80}.{u22}", "netlify": "nfp~_{A36}", "new relic": "NRAK~-{U27}",
    "notion": "ntn~_{A46}", "npm": "npm~_{A36}", "nuget": "oy2~{l43}", "nvidia": "nvapi~-{u64}",
    "octopus": "API-~{U26}", "openai": "sk-~proj-{u100}", "openai old": "sk-~{A20}T3BlbkFJ{A20}",
    "openrouter": "sk-or~-v1-{h64}", "openshift": "sha256~~{u43}", "perplexity": "pplx~-{A48}",
    "planetscale": "pscale_~tkn_{u43}", "postman": "PMAK~-{h24}-{h34}", "posthog": "phx~_{A43}",
    "prefect": "pnu~_{A36}", "pulumi": "pul~-{h40}", "pypi": "pypi~-AgEIcHlwaS5vcmc{u100}",
    "razorpay": "rzp_~live_{A14}", "readme": "rdme~_{l70}", "replicate": "r8~_{A37}",
    "resend": "re~_{A8}_{A24}", "rubygems": "rubygems~_{h48}", "sendgrid": "SG~.{u22}.{u43}",
    "sentry": "sntrys~_eyJ{A90}", "shippo": "shippo_~live_{h40}", "shopify": "shpat~_{h32}",
    "slack bot": "xoxb~-{d12}-{d13}-{A24}", "slack user": "xoxp~-{d12}-{d12}-{d12}-{h32}",
    "sonarqube": "squ~_{h40}", "square": "sq0atp~-{u22}", "stripe": "sk_~live_{A24}",
    "stripe restricted": "rk_~live_{A99}", "stripe webhook": "whsec~_{A32}", "supabase": "sbp~_{h40}",
    "tailscale": "tskey~-auth-{A16}-{A32}", "telegram": "{d10}:AA{u33}", "twilio": "SK~{h32}",
    "typeform": "tfp~_{u44}_{u14}", "vercel": "vcp~_{A24}", "xai": "xai~-{A80}",
    "jwt": "eyJ~hbGciOiJ{u20}.eyJ{u60}.{u43}", "discord": "M{u23}.{u6}.{u27}",
}  # fmt: skip
_CONTEXTS = (
    "{}",
    'x = "{}"',
    "run --with {} now",
    "({})",
    "- {}",
    "see `{}`.",
    "key:{}",
    "\\n{}\\n",
)
_EACH = 16


def _token(template: str, rng: random.Random) -> str:
    text = re.sub(
        r"\{([a-zA-Z])(\d+)\}",
        lambda m: (
            "".join(rng.choice(_ALPHABETS[m[1]]) for _ in range(int(m[2]) - 1))
            # A token that ends in a dash or an underscore would be cut from the text around it.
            + rng.choice([c for c in _ALPHABETS[m[1]] if c.isalnum()])
        ),
        template,
    )
    return (
        text.replace("~~", "\0").replace("~", "").replace("\0", "~") if "Q~" not in text else text
    )


def _found(kind: str, path: str) -> list[bool]:
    rng = random.Random(kind)
    tokens = [_token(_TOKENS[kind], rng) for _ in range(_EACH)]
    lines = [_CONTEXTS[i % len(_CONTEXTS)].format(token) for i, token in enumerate(tokens)]
    changed = _REDACTOR.redact(lines, [path] * len(lines))
    return [i in changed and token not in changed[i].text for i, token in enumerate(tokens)]


@pytest.mark.parametrize("kind", _TOKENS)
def test_tokens_are_masked_wherever_they_stand(kind: str) -> None:
    for path in ("src/app.py", "tests/test_app.py", "README.md", ""):
        found = _found(kind, path)
        assert sum(found) >= 0.9 * len(found)


def test_at_least_99_percent_of_the_tokens_are_masked() -> None:
    found = [is_found for kind in _TOKENS for is_found in _found(kind, "src/app.py")]
    assert len(_TOKENS) >= 90
    assert sum(found) >= 0.99 * len(found)


@pytest.mark.parametrize(
    "line",
    [
        # Base64 that happens to begin like a token of Facebook, AWS or Twilio.
        "EAA" + "QxR7" * 40 + "/" + "Zk9a" * 10,
        "data:image/png;base64,iVBORw0KGgoAKIA" + "ABCDEFGH12345678" + "EAAC" + "x7Qa" * 40,
        # The output of a command that counts matches, and times.
        "0000000012:" + "a_long_name_of_a_function_with_words"[:35],
        "1234567890:" + "tests/pipelines/git_ingest/file.py1",
        "test_" + "pipelines_and_everything_else_in_words",
        "sk-learn-contrib-with-a-very-long-name-of-words",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "SK" + "0" * 32,
        "pub" + "lic_interface_of_the_module_in_words",
        "hf_" + "hub_download_from_the_repository_of",
    ],
)
def test_what_only_begins_like_a_token_is_kept(line: str) -> None:
    assert _REDACTOR.redact([line, f"x = '{line}'"], ["notes.txt", "a.py"]) == {}


def test_every_kind_has_a_readable_name() -> None:
    kinds = {token.kind for token in token_formats()}
    assert len(kinds) >= 90
    assert all(re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", kind) for kind in kinds)
