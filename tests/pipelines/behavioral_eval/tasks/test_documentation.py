from dataclasses import replace

from the_block_llm.pipelines.behavioral_eval.tasks.documentation import text_under_heading


def test_only_new_sections_are_asked_about(history):
    headings = [item.prefix.split("## ")[1].strip() for item in text_under_heading(history, 1)]
    assert headings
    assert all(heading.endswith(("part 2", "part 3")) for heading in headings)


def test_a_moved_or_edited_paragraph_is_not_new(history):
    old = history.documentation_at_cutoff["docs/ledger.md"]
    paragraph = max((p for p in old.split("\n\n") if "#" not in p), key=len).strip()
    edited = paragraph.replace(" ", " also ", 1)
    documents = dict(history.documentation_at_head)
    documents["docs/moved.md"] = f"# Moved\n\n{paragraph}\n\n# Edited\n\n{edited}\n"
    items = text_under_heading(replace(history, documentation_at_head=documents), 1)
    assert {item.cluster for item in items} == {
        item.cluster for item in text_under_heading(history, 1)
    }
