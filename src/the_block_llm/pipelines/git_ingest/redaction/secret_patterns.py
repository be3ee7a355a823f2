"""Patterns of secrets: those of detect-secrets, and of services that it does not know.

The patterns run on few lines only. Small RE2 automata run first, at hundreds of megabytes a
second, and match every line on which a pattern may match: most secrets are a long run of letters
and digits, and the others have a characteristic prefix.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import re2  # type: ignore[import-untyped]
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector


@dataclass(frozen=True)
class SecretPattern:
    """Pattern of one kind of secret, which is the first group that matched, or the whole match."""

    kind: str
    pattern: re.Pattern[str]


# A new kind of token is one line here. If it contains neither a run of 26 letters and digits nor
# a credential word, _PREFIXES below must match it as well, or its lines are never searched.
# Tokens identified by their own format. They precede the patterns of detect-secrets, which assign
# some of these tokens to other services or match only a part of them.
_SERVICE_PATTERNS: Final = {
    "age-key": r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
    "anthropic-key": r"sk-ant-[A-Za-z0-9_-]{20,}",
    "openai-key": r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9]{48}",
    "aws-session-token": r"(?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[A-Za-z0-9/+=]{60,}",
    "aws-access-key": r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}",
    "azure-account-key": r"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{40,}={0,2})",
    "azure-client-secret": r"[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}",
    "azure-sas-signature": r"[?&]sig=([A-Za-z0-9%+/=]{40,})",
    "databricks-token": r"dapi[0-9a-f]{32}(?:-\d)?",
    "digitalocean-token": r"do[opr]_v1_[0-9a-f]{64}",
    "docker-token": r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}",
    "doppler-token": r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9.]{40,}",
    "facebook-token": r"EAA[A-Za-z0-9]{80,}",
    "fly-token": r"fo1_[A-Za-z0-9_-]{40,}|FlyV1 fm[12]_[A-Za-z0-9+/=,_-]{60,}",
    "github-token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}",
    "gitlab-token": (
        r"(?:glpat|gldt|glft|glsoat|glrt|glcbt|glptt|glimt|glagent|gloas)-[A-Za-z0-9_.-]{20,}"
    ),
    "google-api-key": r"AIza[0-9A-Za-z_-]{35}",
    "google-oauth-secret": r"GOCSPX-[A-Za-z0-9_-]{24,}|ya29\.[A-Za-z0-9_-]{30,}",
    "grafana-token": r"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|glc_[A-Za-z0-9+/]{40,}={0,2}",
    "hashicorp-token": r"hv[sbr]\.[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}",
    "heroku-key": r"HRKU-[A-Za-z0-9_-]{30,}",
    "huggingface-token": r"(?:hf|api_org)_[A-Za-z]{34,}",
    "linear-key": r"lin_(?:api|oauth)_[A-Za-z0-9]{40,}",
    "mapbox-token": r"sk\.eyJ[A-Za-z0-9_-]{40,}\.[A-Za-z0-9_-]{20,}",
    "new-relic-key": r"NRAK-[A-Z0-9]{27}|NRII-[A-Za-z0-9_-]{32}",
    "notion-token": r"ntn_[A-Za-z0-9]{40,}|secret_[A-Za-z0-9]{43}",
    "npm-token": r"npm_[A-Za-z0-9]{36}",
    "planetscale-token": r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,}",
    "postman-key": r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    "pulumi-token": r"pul-[0-9a-f]{40}",
    "pypi-token": r"pypi-[A-Za-z0-9_-]{80,}",
    "rubygems-key": r"rubygems_[0-9a-f]{48}",
    "sentry-token": r"sntr[yu]s?_[A-Za-z0-9+/=_-]{40,}|https://([0-9a-f]{32})@[\w.-]*sentry",
    "shopify-token": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    "slack-token": r"xox[abeoprs]-(?:\d+-)*[A-Za-z0-9-]{10,}|xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+",
    "square-token": r"sq0(?:atp|csp|idp)-[0-9A-Za-z_-]{22,}|EAAA[A-Za-z0-9_-]{60}",
    "stripe-key": r"(?:[rs]k_(?:live|test)|whsec)_[0-9a-zA-Z]{24,}",
    "supabase-token": r"sb(?:p|_secret)_[A-Za-z0-9_-]{30,}",
    "telegram-token": r"\b\d{8,10}:[0-9A-Za-z_-]{35}\b",
    "twitter-bearer": r"A{20,}[A-Za-z0-9%]{60,}",
    "webhook-url": (
        r"https://(?:hooks\.slack\.com/(?:services|workflows)/|(?:\w+\.)?discord(?:app)?\.com/api/"
        r"webhooks/|[\w.-]+\.webhook\.office\.com/webhookb2/)([A-Za-z0-9_/@-]{20,})"
    ),
    "url-password": r"\b[a-zA-Z][\w+.-]*://[^\s:@/'\"<>{}$]*:([^\s@/'\"<>{}$]{3,})@[\w.\[-]",
    "authorization-header": (
        r"(?i:\b(?:bearer|basic|token)\s+)((?=[A-Za-z0-9._~+/=-]*\d)[A-Za-z0-9._~+/=-]{20,})"
    ),
    "connection-password": r"(?i:;\s*(?:password|pwd)\s*=\s*)([^\s;'\"<>{}$]{4,})",
    "option-password": (
        r"(?i:--(?:password|passwd|token|secret|api-key))[= ]"
        r"([^\s'\"<>{}$-][^\s'\"<>{}$]{5,})"
    ),
}  # fmt: skip

_DETECTORS: Final[dict[str, Callable[[], RegexBasedDetector]]] = {
    "aws-secret-key": AWSKeyDetector,
    "azure-account-key": AzureStorageKeyDetector,
    "url-password": BasicAuthDetector,
    "discord-token": DiscordBotTokenDetector,
    "github-token": GitHubTokenDetector,
    "gitlab-token": GitLabTokenDetector,
    "jwt": JwtTokenDetector,
    "mailchimp-key": MailchimpDetector,
    "npm-token": NpmDetector,
    "openai-key": OpenAIDetector,
    "pypi-token": PypiTokenDetector,
    "sendgrid-key": SendGridDetector,
    "slack-token": SlackDetector,
    "square-token": SquareOAuthDetector,
    "stripe-key": StripeDetector,
    "telegram-token": TelegramBotTokenDetector,
    "twilio-key": TwilioKeyDetector,
}

PRIVATE_KEY_BEGIN: Final = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d"
)
CREDENTIAL_WORDS: Final = (
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api_?-?key|access_?-?key|private_?-?key"
    r"|auth_?-?key|account_?-?key|encrypt(?:ion)?_?-?key|signing_?-?key|master_?-?key"
    r"|credentials?|mnemonic|seed_?-?phrase|client_?-?key|service_?-?key|deploy_?-?key)"
)
# A name such as db_password, followed by a possible value.
_NAMED_VALUE: Final = (
    rf"(?i:{CREDENTIAL_WORDS}[\w.\-]{{0,24}}[\"'`\]]{{0,2}}\s{{0,4}}(?:=>|:=|==?|:)\s{{0,4}}"
    r"(?:[\"'`].{4}|[^\s\"'`,;(){}<>\[\]$]{6}))"
)
# Without _ - and =, which occur in long names and in ruled lines.
_LONG_RUN: Final = r"[A-Za-z0-9+/]{26}"
_PREFIXES: Final = (
    r"PRIVATE KEY|PuTTY-User|A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA|AROA|AIDA|sk-(?:ant|proj|svc|admin)-"
    r"|Q~|[?&]sig=|dckr_|dp\.(?:p|s|c|a)|gl(?:pat|dt|ft|soat|rt|cbt|ptt|imt|agent|oas)-|GOCSPX-"
    r"|ya29\.|hv[sbr]\.|atlasv1|xox[abeoprs]-|xapp-|sq0(?:atp|csp|idp)-|hooks\.slack\.com"
    r"|/api/webhooks/|webhookb2/|://[^\s:@/]*:[^\s@/]+@|eyJ[A-Za-z0-9]|//\S+:_authToken="
    r"|AIza|[rs]k_(?:live|test)_|whsec_|pscale_|sb(?:p|_secret)_|sntr[yu]|fo1_|EAA|NRII-|NRAK-|HRKU-|SG\.[\w\-]{8}|github_pat_"
    r"|pypi-A|\d{8}:[\w\-]{35}|@[\w.\-]*sentry"
    r"|\.[\w\-]{6}\.[\w\-]{27}|glc_|AccountKey=|SharedAccessKey="
    r"|(?i:(?:bearer|basic|token)\s+[\w.~+/=\-]{20}|--(?:password|passwd|token|secret|api-key)[= ])"
)
_MAX_AUTOMATON_BYTES: Final = 8 << 20
_MAX_REPEATS: Final = 6
EMAIL: Final = re.compile(
    r"(?<![\w.+%-])([A-Za-z0-9][A-Za-z0-9._%+-]*)@((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})\b(?!:)"
)
_EMAIL_PREFILTER: Final = r"[A-Za-z0-9._%+\-]@[A-Za-z0-9\-]+\.[A-Za-z]"


@functools.cache
def all_patterns() -> tuple[SecretPattern, ...]:
    """Return all patterns, the most specific first."""
    services = [
        SecretPattern(kind, re.compile(pattern)) for kind, pattern in _SERVICE_PATTERNS.items()
    ]
    detectors = [
        SecretPattern(kind, pattern)
        for kind, detector in _DETECTORS.items()
        for pattern in detector().denylist
    ]
    return (*services, *detectors)


@functools.cache
def prefilters(*, secrets: bool, emails: bool) -> tuple[Any, ...]:
    """Return compiled patterns, one of which matches every line that may hold a secret or e-mail.

    They match UTF-8 as bytes; only ASCII letters count as letters.
    """
    # Two automata of a few hundred states run several times faster than one of thousands.
    patterns = [_EMAIL_PREFILTER]
    if secrets:
        long_run = f"{_LONG_RUN}|{_EMAIL_PREFILTER}" if emails else _LONG_RUN
        patterns = [f"{_NAMED_VALUE}|{_PREFIXES}", long_run]
    return tuple(_compile_re2(pattern) for pattern in patterns)


@functools.cache
def pattern_prefilter() -> Any:
    """Return one compiled pattern that matches every line on which a secret pattern may match.

    Most lines that pass :func:`prefilters` are paths and hashes; this saves running some seventy
    patterns on them.
    """
    return _compile_re2("|".join(f"(?:{_relax(secret.pattern)})" for secret in all_patterns()))


@functools.cache
def named_value_prefilter() -> Any:
    """Return a compiled pattern that matches every line that assigns a value to a secret name."""
    return _compile_re2(_NAMED_VALUE)


def _relax(pattern: re.Pattern[str]) -> str:
    """Return a smaller pattern that matches wherever ``pattern`` does.

    Large repetition counts give automata of thousands of states, and RE2 has no lookahead.
    """
    text = re.sub(r"\s+", "", pattern.pattern) if pattern.flags & re.VERBOSE else pattern.pattern
    text = re.sub(r"\(\?[=!][^()]*\)", "", text)
    text = re.sub(r"\{(\d+)(?:,\d*)?\}", lambda m: f"{{{min(int(m[1]), _MAX_REPEATS)},}}", text)
    return f"(?i:{text})" if pattern.flags & re.IGNORECASE else text


def _compile_re2(pattern: str) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.log_errors = False
    options.max_mem = _MAX_AUTOMATON_BYTES
    return re2.compile(pattern.encode("ascii"), options)
