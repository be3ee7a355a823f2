from the_block_llm.pipelines.sequence_build.code.outline import extract_declarations


def test_rust_signatures_are_put_on_one_line(rust_source: str) -> None:
    found = [(d.name, d.signature, d.is_nested) for d in extract_declarations(rust_source, "Rust")]
    assert found == [
        ("Account", "pub struct Account", False),
        (
            "Account::pay",
            "pub fn Account::pay(&mut self, to: &mut Account, amount: u64) -> Result<(), Error>",
            True,
        ),
    ]


def test_rust_array_types_do_not_end_a_signature() -> None:
    source = (
        "pub fn hash(parts: &[u8; 32], of: [u8; 4]) -> [u8; 32] {\n}\n"
        "impl Header {\n    pub fn id(&self) -> [u8; 32];\n}\n"
        "pub mod rng {\n    pub fn fill(to: &mut [u8]) {}\n}\n"
    )
    assert [d.signature for d in extract_declarations(source, "Rust")] == [
        "pub fn hash(parts: &[u8; 32], of: [u8; 4]) -> [u8; 32]",
        "pub fn Header::id(&self) -> [u8; 32]",
        "pub mod rng",
        "pub fn rng::fill(to: &mut [u8])",
    ]


def test_private_python_definitions_are_left_out() -> None:
    source = "class A(B):\n    def f(self, x: int) -> int: ...\n    def _g(self): ...\n"
    assert [d.signature for d in extract_declarations(source, "Python")] == [
        "class A(B)", "def f(self, x: int) -> int",
    ]  # fmt: skip


def test_python_that_does_not_parse_has_no_declarations() -> None:
    assert extract_declarations("def broken(", "Python") == []
