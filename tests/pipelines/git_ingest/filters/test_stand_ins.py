"""Pointers and encrypted files are recognized by content, in files and in patches."""

import pytest

from the_block_llm.pipelines.git_ingest.filters.stand_ins import stand_in_reason

STAND_INS = {
    "git-lfs": ("pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"),
    "git-annex link": ("pointer", "../.git/annex/objects/Xk/0f/SHA256E-s9--4d/SHA256E-s9--4d"),
    "git-annex pointer": ("pointer", "/annex/objects/SHA256E-s9--4d7a\n"),
    "git-fat": ("pointer", "#$# git-fat 60bef6d8ab3a6c8dd1e3f0dc5f5c0b8b6d3a1f4e           9\n"),
    "submodule": ("pointer", "Subproject commit 60bef6d8ab3a6c8dd1e3f0dc5f5c0b8b6d3a1f4e\n"),
    "DVC": (
        "pointer",
        "outs:\n- md5: a304afb96060aad9017626\n  size: 9\n  path: d.csv\n",
    ),
    "link as text": ("pointer", "../shared/config/base.yml"),
    "git-crypt": ("encrypted", "\0GITCRYPT\0abcdef"),
    "ansible-vault": ("encrypted", "$ANSIBLE_VAULT;1.1;AES256\n6266343563\n3435313066\n"),
    "PGP": ("encrypted", "-----BEGIN PGP MESSAGE-----\n\nhQIMA\n-----END PGP MESSAGE-----\n"),
    "age": ("encrypted", "age-encryption.org/v1\n-> X25519 abc\n"),
    "transcrypt": ("encrypted", "U2FsdGVkX1+abcdefghij\n"),
    "SOPS": ("encrypted", "user: ENC[AES256_GCM,data:a]\npass: ENC[AES256_GCM,data:b]\nsops:\n"),
    "SealedSecret": ("encrypted", "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\n"),
}
ORDINARY = {
    "documentation of git-lfs": "# LFS\n\nversion https://git-lfs.github.com/spec/v1 begins it\n",
    "documentation of SOPS": "# SOPS\n\nA value\nlooks\nlike\nENC[AES256_GCM,data:x].\nSo it is.\n",
    "pipeline of DVC": "stages:\n  train:\n    cmd: python train.py\n    outs:\n    - model.pkl\n",
    "one path a line": "./run.sh\n./test.sh\n",
    "Kubernetes": "apiVersion: v1\nkind: Service\n",
    "settings": "---\nkey: value\n",
}


def as_patch(text: str) -> bytes:
    added = "".join(f"+{line}\n" for line in text.split("\n") if line)
    ending = "" if text.endswith("\n") else "\\ No newline at end of file\n"
    return f"@@ -0,0 +1,3 @@\n{added}{ending}".encode()


@pytest.mark.parametrize("name", STAND_INS)
def test_what_stands_for_other_content_has_a_reason(name: str) -> None:
    reason, text = STAND_INS[name]
    assert stand_in_reason(text.encode()) == reason
    assert stand_in_reason(as_patch(text)) == reason


@pytest.mark.parametrize("name", ORDINARY)
def test_text_about_them_is_text(name: str) -> None:
    assert stand_in_reason(ORDINARY[name].encode()) is None
    assert stand_in_reason(as_patch(ORDINARY[name])) is None
