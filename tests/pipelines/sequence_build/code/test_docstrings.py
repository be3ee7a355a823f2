from the_block_llm.pipelines.sequence_build.code.docstrings import extract_docstrings


def test_rust_doc_comments_include_the_declaration(rust_source: str) -> None:
    found = {d.name: d for d in extract_docstrings(rust_source, "Rust")}
    assert found["Account"].declaration == "pub struct Account"
    assert found["Account::pay"].declaration.startswith("pub fn pay(&mut self")
    assert found[""].text == "Keeps accounts, and moves money between them."


def test_rust_array_types_do_not_end_a_declaration() -> None:
    key = "/// The key of a header, of all its fields.\npub fn key(of: &Header) -> [u8; 32] {\n}\n"
    assert extract_docstrings(key, "Rust")[0].declaration == "pub fn key(of: &Header) -> [u8; 32]"


def test_markdown_sections_end_before_a_horizontal_rule() -> None:
    page = (
        "# Rules\n\nOf all the rules there are two.\n\n---\n\n"
        "## Next\n\nSix plain words are here, too.\n"
    )
    assert [d.text for d in extract_docstrings(page, "Markdown")] == [
        "Of all the rules there are two.", "Six plain words are here, too.",
    ]  # fmt: skip
