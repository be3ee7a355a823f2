"""Formats of the tokens and keys that services issue.

A new kind is one line of the table. Lines to search are found by an RE2 pattern that is derived
from it (:mod:`prefilter`), so nothing else must be changed.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

from the_block_llm.pipelines.git_ingest.redaction.credential_values import (
    is_placeholder,
    is_public_example,
    is_reference,
)
from the_block_llm.pipelines.git_ingest.redaction.random_strings import Span, looks_random


@dataclass(frozen=True)
class TokenFormat:
    """Format of one kind of token: the first group that matched, or the whole match."""

    kind: str
    source: str
    """Source of the pattern, without boundaries."""
    pattern: re.Pattern[str]
    is_chosen: bool
    """Whether a person chose the value, so that it can be a placeholder."""


_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# They precede the patterns of detect-secrets, which assign some of these tokens to other services
# or match only a part of them.
_TOKENS: Final = {
    "adafruit-key": r"aio_[A-Za-z0-9]{28}",
    "adobe-secret": r"p8e-[a-z0-9]{32}",
    "age-key": r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
    "airtable-token": r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}",
    "alibaba-access-key": r"LTAI[A-Za-z0-9]{16,24}",
    "anthropic-key": r"sk-ant-[A-Za-z0-9_-]{20,}",
    "artifactory-token": r"AKCp[0-9A-Za-z]{50,}|cmVmdGtu[A-Za-z0-9]{50,}",
    "asana-token": r"\d/\d{16}(?:/\d{16})?:[a-f0-9]{32}",
    "atlassian-token": r"ATATT3[A-Za-z0-9_=-]{100,}|ATCTT3[A-Za-z0-9_=-]{60,}|ATBB[A-Za-z0-9]{32,}",
    "aws-access-key": r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}",
    "aws-bedrock-key": r"ABSK[A-Za-z0-9+/]{100,}={0,2}",
    "aws-session-token": r"(?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[A-Za-z0-9/+=]{60,}",
    "azure-account-key": r"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{40,}={0,2})",
    "azure-client-secret": r"[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}",
    "azure-devops-token": r"[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}",
    "azure-sas-signature": r"[?&]sig=([A-Za-z0-9%+/=]{40,})",
    "brevo-key": r"xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}|xsmtpsib-[a-f0-9]{64}-[A-Za-z0-9]{16}",
    "buildkite-token": r"bk(?:ua|at|pt|ct)_[a-f0-9]{40}",
    "circleci-token": r"CCIPAT_[A-Za-z0-9]{22}_[a-f0-9]{40}|CCIPRJ_[A-Za-z0-9]{22}_[a-f0-9]{40}",
    "clojars-token": r"CLOJARS_[a-f0-9]{60}",
    "cloudflare-key": r"v1\.0-[a-f0-9]{24}-[a-f0-9]{146}",
    "contentful-token": r"CFPAT-[A-Za-z0-9_-]{43}",
    "crates-io-token": r"cio[A-Za-z0-9]{32}",
    "databricks-token": r"dapi[0-9a-f]{32}(?:-\d)?",
    "datadog-key": r"ddapp_[A-Za-z0-9]{34}|pub[a-f0-9]{32}",
    "deepseek-key": r"sk-[a-f0-9]{32}",
    "digitalocean-token": r"do[opr]_v1_[0-9a-f]{64}",
    "docker-token": r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}",
    "doppler-token": r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{40,}",
    "dropbox-token": r"sl\.(?:u\.)?[A-Za-z0-9_-]{120,}",
    "duffel-token": r"duffel_(?:test|live)_[A-Za-z0-9_-]{43}",
    "dynatrace-token": r"dt0[a-z]\d{2}\.[A-Z0-9]{24}\.[A-Z0-9]{64}",
    "easypost-key": r"EZ[AT]K[A-Za-z0-9]{54}",
    "facebook-token": r"EAA[A-Za-z0-9]{80,}",
    "figma-token": r"fig[du]_[A-Za-z0-9_-]{40,}",
    "flutterwave-key": r"FLWSECK(?:_TEST)?-[a-h0-9]{32}-X|FLWSECK_TEST-[a-h0-9]{12}",
    "fly-token": r"fo1_[A-Za-z0-9_-]{40,}|FlyV1 fm[12]_[A-Za-z0-9+/=,_-]{60,}",
    "frameio-token": r"fio-u-[A-Za-z0-9_=-]{64}",
    "github-token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}",
    "gitlab-token": (
        r"(?:glpat|gldt|glft|glsoat|glrt|glcbt|glptt|glimt|glagent|gloas|glffct|glrtr|glwt)-[A-Za-z0-9_.-]{20,}"
        r"|GR1348941[A-Za-z0-9_-]{20}"
    ),
    "gocardless-token": r"live_[A-Za-z0-9_-]{40}",
    "google-api-key": r"AIza[0-9A-Za-z_-]{35}|AQ\.Ab8[A-Za-z0-9_-]{40,}",
    "google-oauth-secret": r"GOCSPX-[A-Za-z0-9_-]{24,}|ya29\.[A-Za-z0-9_-]{30,}|1//0[A-Za-z0-9_-]{40,}",
    "grafana-token": r"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|glc_[A-Za-z0-9+/]{40,}={0,2}",
    "groq-key": r"gsk_[A-Za-z0-9]{48,}",
    "harness-token": r"(?:pat|sat)\.[A-Za-z0-9_-]{22}\.[a-f0-9]{24}\.[A-Za-z0-9]{20}",
    "hashicorp-token": (
        r"hv[sbr]\.[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}|hcp\.[A-Za-z0-9_-]{60,}"
    ),
    "heroku-key": rf"HRKU-[A-Za-z0-9_-]{{30,}}|(?i:heroku.{{0,24}}[=: \"'])({_UUID})",
    "huggingface-token": r"(?:hf|api_org)_[A-Za-z]{34,}",
    "infracost-key": r"ico-[A-Za-z0-9]{32}",
    "intra42-secret": r"s-s4t2(?:ud|af)-[a-f0-9]{64}",
    "jfrog-token": r"(?i:X-JFrog-Art-Api:\s?)([A-Za-z0-9]{40,})",
    "jwt": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}",
    "langsmith-key": r"lsv2_(?:pt|sk)_[a-f0-9]{32}_[a-f0-9]{10}",
    "launchdarkly-key": rf"(?:api|sdk|mob)-{_UUID}",
    "linear-key": r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}",
    "lob-key": r"(?:live|test)_[a-f0-9]{35}",
    "mailgun-key": r"key-[a-f0-9]{32}|(?:pubkey-)?[a-f0-9]{32}-[a-f0-9]{8}-[a-f0-9]{8}",
    "mapbox-token": r"[sp]k\.eyJ[A-Za-z0-9_-]{40,}\.[A-Za-z0-9_-]{20,}",
    "mercury-token": r"secret-token:mercury_[A-Za-z0-9_]{20,}",
    "midtrans-key": r"Mid-server-[A-Za-z0-9_-]{24}",
    "netlify-token": r"nf[pcoub]_[A-Za-z0-9]{36}",
    "new-relic-key": r"NRAK-[A-Z0-9]{27}|NRII-[A-Za-z0-9_-]{32}|NRJS-[a-f0-9]{19}|NRAA-[a-f0-9]{27}",
    "notion-token": r"ntn_[A-Za-z0-9]{40,}|secret_[A-Za-z0-9]{43}",
    "npm-token": r"npm_[A-Za-z0-9]{36}",
    "nuget-key": r"oy2[a-z0-9]{43}",
    "nvidia-key": r"nvapi-[A-Za-z0-9_-]{60,}",
    "octopus-key": r"API-[A-Z0-9]{26}",
    "okta-token": r"(?i:SSWS\s)(00[A-Za-z0-9_-]{40})",
    "onepassword-token": r"ops_eyJ[A-Za-z0-9+/=]{200,}|A3-[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}",
    "openai-key": r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9]{48}|sk-or-v1-[a-f0-9]{64}",
    "openshift-token": r"sha256~[A-Za-z0-9_-]{43}",
    "paypal-token": r"access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}",
    "perplexity-key": r"pplx-[A-Za-z0-9]{48}",
    "pinecone-key": r"pcsk_[A-Za-z0-9_]{50,}",
    "planetscale-token": r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,}",
    "plaid-token": rf"access-(?:sandbox|development|production)-{_UUID}",
    "postman-key": r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    "posthog-key": r"ph[cx]_[A-Za-z0-9]{43}",
    "prefect-key": r"pn[ub]_[A-Za-z0-9]{36}",
    "pulumi-token": r"pul-[0-9a-f]{40}",
    "pypi-token": r"pypi-[A-Za-z0-9_-]{80,}",
    "razorpay-key": r"rzp_(?:live|test)_[A-Za-z0-9]{14,}",
    "readme-key": r"rdme_[a-z0-9]{70}",
    "replicate-token": r"r8_[A-Za-z0-9]{37}",
    "resend-key": r"re_[A-Za-z0-9]{8}_[A-Za-z0-9]{24}",
    "rubygems-key": r"rubygems_[0-9a-f]{48}",
    "scalingo-token": r"tk-us-[A-Za-z0-9_-]{48}",
    "sendgrid-key": r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "sentry-token": r"sntr[yu]s?_[A-Za-z0-9+/=_-]{40,}|https://([0-9a-f]{32})@[\w.-]*sentry",
    "settlemint-token": r"sm_(?:pat|aat|sat)_[A-Za-z0-9]{16}",
    "shippo-token": r"shippo_(?:live|test)_[a-f0-9]{40}",
    "shopify-token": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    "sidekiq-url": r"https?://([a-f0-9]{8}:[a-f0-9]{8})@(?:gems|enterprise)\.contribsys\.com",
    "slack-token": r"xox[abceoprs]-(?:\d+-)*[A-Za-z0-9-]{10,}|xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+|xoxe\.xox[bp]-\d-[A-Za-z0-9]{100,}",
    "sonarqube-token": r"sq[upa]_[a-f0-9]{40}",
    "square-token": r"sq0(?:atp|csp|idp)-[0-9A-Za-z_-]{22,}|EAAA[A-Za-z0-9_-]{60}",
    "stripe-key": r"(?:(?:[rs]k|pk)_(?:live|test|prod)|whsec)_[0-9a-zA-Z]{16,}",
    "supabase-token": r"sb(?:p|_secret)_[A-Za-z0-9_-]{30,}",
    "tailscale-key": r"tskey-(?:[a-z]+-)?[A-Za-z0-9]+-[A-Za-z0-9]{20,}",
    "telegram-token": r"\d{8,10}:[0-9A-Za-z_-]{35}",
    "terraform-token": r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,70}",
    "twilio-key": r"(?:SK|AC)[0-9a-f]{32}",
    "twitch-token": r"oauth:[a-z0-9]{30}",
    "twitter-bearer": r"A{20,28}[B-Za-z0-9%][A-Za-z0-9%]{60,}",
    "typeform-token": r"tfp_[A-Za-z0-9_.=-]{44,}",
    "vercel-token": r"vc[pirka]_[A-Za-z0-9]{24,}",
    "wakatime-key": rf"waka_{_UUID}",
    "xai-key": r"xai-[A-Za-z0-9]{70,}",
    "yandex-token": r"t1\.[A-Z0-9a-z_-]+=?=?\.[A-Z0-9a-z_-]{86}=?=?|AQVN[A-Za-z0-9_-]{35,38}|y0_[A-Za-z0-9_-]{50,}",
    "zapier-webhook": r"https://hooks\.zapier\.com/hooks/catch/(\d+/[a-z0-9]{6,})",
    "webhook-url": (
        r"https://(?:hooks\.slack\.com/(?:services|workflows|triggers)/|(?:\w+\.)?discord(?:app)?\.com/api/"
        r"webhooks/|[\w.-]+\.webhook\.office\.com/webhookb2/)([A-Za-z0-9_/@-]{20,})"
    ),
}  # fmt: skip
# Values that a person may have chosen; placeholders and references among them are kept.
_CHOSEN: Final = {
    "url-password": r"[a-zA-Z][\w+.-]{0,20}://[^\s:@/'\"<>{}$]*:([^\s@/'\"<>{}$]{3,})@[\w.\[-]",
    "authorization-header": (
        r"(?i:(?:bearer|basic|token)\s+)([A-Za-z0-9._~+/=-]{20,})"
    ),
    "npm-auth": r"_(?:auth|password)\s?=\s?([A-Za-z0-9+/=]{8,})",
    "connection-password": r"(?i:;\s*(?:password|pwd)\s*=\s*)([^\s;'\"<>{}$]{4,})",
}  # fmt: skip
_DETECTORS: Final[dict[str, Callable[[], RegexBasedDetector]]] = {
    "aws-secret-key": AWSKeyDetector,
    "discord-token": DiscordBotTokenDetector,
    "gitlab-token": GitLabTokenDetector,
    "mailchimp-key": MailchimpDetector,
    "npm-token": NpmDetector,
    "openai-key": OpenAIDetector,
    "pypi-token": PypiTokenDetector,
    "sendgrid-key": SendGridDetector,
    "slack-token": SlackDetector,
    "square-token": SquareOAuthDetector,
    "stripe-key": StripeDetector,
    "twilio-key": TwilioKeyDetector,
}
_MIN_DISTINCT_CHARACTERS: Final = 5
_EXAMPLE_HOST: Final = re.compile(r"(?:[\w-]+\.)*(?:example|test|invalid)\b")
# A token is not a part of a longer run, such as one line of base64.
_BEFORE: Final = r"(?<![A-Za-z0-9_+/=.~-])(?<!%[0-9A-F])"
_BEFORE_ESCAPED: Final = r"(?:(?<=\\[nrt])|(?<=%3[aA])|(?<=%3[dD])|(?<=[=:@/.]))"
_AFTER: Final = r"(?![A-Za-z0-9_+/-]|=[A-Za-z0-9])"
_UNBOUNDED: Final = frozenset(
    {
        "aws-secret-key",
        "npm-token",
        "url-password",
        "connection-password",
        "webhook-url",
        "jfrog-token",
    }
)


@functools.cache
def token_formats() -> tuple[TokenFormat, ...]:
    """Return all formats, the most specific first."""
    formats = [_format(kind, source) for kind, source in _TOKENS.items()]
    formats += [_format(kind, source, is_chosen=True) for kind, source in _CHOSEN.items()]
    for kind, detector in _DETECTORS.items():
        for pattern in detector().denylist:
            if pattern.pattern.startswith("(?:A3T"):
                continue  # the format of AWS above
            verbose = (
                re.sub(r"\s+", "", pattern.pattern)
                if pattern.flags & re.VERBOSE
                else pattern.pattern
            )
            source = f"(?i:{verbose})" if pattern.flags & re.IGNORECASE else verbose
            formats.append(_format(kind, source))
    return tuple(formats)


def _format(kind: str, source: str, *, is_chosen: bool = False) -> TokenFormat:
    bounded = (
        source if kind in _UNBOUNDED else rf"(?:{_BEFORE}|{_BEFORE_ESCAPED})(?:{source}){_AFTER}"
    )
    return TokenFormat(kind, source, re.compile(bounded), is_chosen)


def provider_tokens(line: str, formats: Iterable[int], *, is_test: bool = False) -> Iterator[Span]:
    """Yield the tokens on ``line``.

    Args:
        line: The line.
        formats: Indices of the :func:`token_formats` to look for.
        is_test: Whether to leave out passwords that a person chose.
    """
    for token in map(token_formats().__getitem__, formats):
        if is_test and token.is_chosen:
            continue
        for found in token.pattern.finditer(line):
            group = next((i for i, value in enumerate(found.groups(), 1) if value), 0)
            value = found[group]
            if token.is_chosen and (
                is_reference(value)
                or is_placeholder(value)
                or (value.isalpha() and _EXAMPLE_HOST.match(line, found.end() - 1))
            ):
                continue
            if _is_token(token, value):
                yield Span(*found.span(group), token.kind)


def _is_token(token: TokenFormat, value: str) -> bool:
    if token.kind in ("url-password", "connection-password", "npm-auth"):
        return True
    if token.kind == "authorization-header":
        return any(c.isdigit() for c in value) and looks_random(value)
    if is_public_example(value) or len(set(value)) < _MIN_DISTINCT_CHARACTERS:
        return False
    # The characters after a prefix are random; those of a name or of a path are words.
    return looks_random(value[value.find("_") + 1 :] if "_" in value[:12] else value)
