import pytest

pytest.importorskip("fastapi")

from sightline.faces.service.search import measure_agreement
from web_world import copy_model, index, open_app, write_photos


def test_models_of_a_library_answer_one_query_side_by_side(tmp_path):
    photos = write_photos(tmp_path / "photos", ["red", "green", "blue", "grey"])
    library = index(tmp_path / "library", photos)
    other = copy_model(tmp_path)
    index(library, photos, model=other)
    with open_app(library) as client:
        answer = client.get("/api/compare", params={"q": "red", "models": f"starter, {other}", "limit": 2}).json()
        assert [model["name"] for model in answer["models"]] == ["starter", other]
        first, second = answer["models"]
        assert [hit["id"] for hit in first["hits"]] == [hit["id"] for hit in second["hits"]]  # the same weights
        assert len(first["hits"]) == 2
        assert first["took_ms"] > 0
        assert answer["agreement"] == 1
        searched = client.get("/api/search", params={"q": "red", "limit": 2}).json()["hits"]
        assert [hit["id"] for hit in searched] == [hit["id"] for hit in first["hits"]]
        alone = client.get("/api/compare", params={"q": "red - blue", "models": "starter,starter"}).json()
        assert (len(alone["models"]), alone["agreement"]) == (1, None)


def test_agreement_is_the_mean_share_of_the_first_ten_that_pairs_have_in_common():
    def ranking(*rows):
        return [(row, 0.5) for row in rows]

    one, two = ranking(*range(12)), ranking(*range(5, 17))  # the first ten: 0 to 9 and 5 to 14
    assert measure_agreement([one, two]) == 0.5
    assert measure_agreement([one, two, one]) == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert measure_agreement([ranking(1, 2), ranking(2, 1)]) == 1
    assert measure_agreement([one]) is None
    assert measure_agreement([one, []]) is None


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"q": "red", "models": "starter,nonsense"}, 409),
        ({"q": "red", "models": "ViT-B-32/openai"}, 409),
        ({"q": "red", "models": "dir:/etc"}, 409),
        ({"q": "red", "models": " , "}, 422),
        ({"q": "red", "models": "a,b,c,d,e"}, 422),
        ({"q": "red"}, 422),
        ({"models": "starter"}, 422),
        ({"q": " ", "models": "starter"}, 422),
        ({"q": "red", "models": "starter", "limit": 0}, 422),
    ],
)
def test_what_can_not_be_compared_is_refused(tmp_path, params, status):
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    with open_app(tmp_path / "library") as client:
        refused = client.get("/api/compare", params=params)
        assert refused.status_code == status
        assert refused.json()["detail"]


def test_words_that_look_like_a_file_are_words(tmp_path):
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    with open_app(tmp_path / "library") as client:
        assert client.get("/api/compare", params={"q": "/etc/passwd", "models": "starter"}).status_code == 200
