"""The pictures of the pipelines' folders show the folders that there are."""

import pytest
from docs.tools.folder_diagrams import DIAGRAMS, ROOT, draw, folders_of, path_of


@pytest.mark.parametrize("pipeline", DIAGRAMS)
def test_a_picture_shows_every_folder_once_and_is_current(pipeline: str) -> None:
    diagram = DIAGRAMS[pipeline]
    shown = [*(step.folder for step in diagram.steps), *diagram.beside]
    assert sorted(shown) == sorted(folders_of(pipeline))
    current = path_of(pipeline).read_text(encoding="utf-8")
    assert current == draw(pipeline), "run: python -m docs.tools.folder_diagrams"


@pytest.mark.parametrize("pipeline", DIAGRAMS)
def test_the_page_of_a_pipeline_begins_with_its_picture(pipeline: str) -> None:
    page = (ROOT / f"docs/{pipeline}.md").read_text(encoding="utf-8")
    before_the_first_section = page.partition("\n## ")[0]
    assert f"](images/{path_of(pipeline).name})" in before_the_first_section
