"""Searches over HTTP, by words and images, page by page.

Covers: sightline.faces.service.rankings, sightline.faces.web.routes.search.
"""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi")

import sightline as sl
from sightline.core.search.rerank import SecondLook
from sightline.errors import CursorError
from sightline.faces.service import rankings
from sightline.faces.service.rankings import Cursor, Ranking, Rankings, read_cursor, write_cursor
from web_demo import make_demo_library
from web_world import image_bytes, index, open_app, write_many, write_photos


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo_library(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def client(demo):
    with open_app(demo) as client:
        yield client


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A library of 600 pictures."""
    folder = tmp_path_factory.mktemp("many")
    return index(folder / "library", write_many(folder / "photos", 600))


def ask(client, expect=200, **params):
    response = client.get("/api/search", params=params)
    assert response.status_code == expect, response.text
    return response.json()


def names(answer):
    return [hit["name"] for hit in answer["hits"]]


def id_of(client, name):
    return next(hit["id"] for hit in ask(client)["hits"] if hit["name"] == name)


def test_hits_that_are_marked_rank_the_list_anew(client):
    first = ask(client, q="an animal")
    right, wrong = first["hits"][4], first["hits"][0]
    parts = [{"id": right["id"], "mark": True}, {"id": wrong["id"], "weight": -1, "mark": True}]
    after = ask(client, q="an animal", parts=json.dumps(parts))
    assert names(after).index(right["name"]) < 4
    assert wrong["name"] not in names(after)
    assert (after["total"], first["total"]) == (14, 15)
    assert "no image with the id 999" in ask(client, 404, parts='[{"id": 999, "mark": true}]')["detail"]
    assert "only an image is marked" in ask(client, 422, parts='[{"text": "a", "mark": true}]')["detail"]


def test_words_give_what_the_command_line_gives(client, demo):
    with sl.Library.open(demo) as library:
        expected = library.search("a horse", "-", "night", top=15)
    answer = ask(client, q="a horse - night")
    assert names(answer) == [hit.image.path.name for hit in expected]
    similarities = [hit["similarity"] for hit in answer["hits"]]
    np.testing.assert_allclose(similarities, [hit.similarity for hit in expected], atol=1e-6)
    assert [(part["label"], part["weight"], part["kind"]) for part in answer["parts"]] == [
        ("a horse", 1, "text"),
        ("night", -1, "text"),
    ]
    assert (answer["total"], answer["next"], answer["note"], answer["model"]) == (15, None, None, "starter")
    assert answer["took_ms"] > 0


def test_the_first_are_read_again_once_and_pages_follow_each_other(demo, monkeypatch):
    with open_app(demo) as client:
        plain = names(ask(client, q="a horse", limit=20))
        calls, see = [], SecondLook.see
        monkeypatch.setattr(SecondLook, "see", lambda self, records: calls.append(1) or see(self, records))
        pages, cursor = [], None
        for _ in range(4):
            page = ask(client, q="a horse", rerank=6, limit=4, **({"cursor": cursor} if cursor else {}))
            pages += names(page)
            cursor = page["next"]
        with sl.Library.open(demo) as library:
            expected = [hit.image.path.name for hit in library.search("a horse", top=20, rerank=6)]
        assert pages == expected
        assert pages[6:] == plain[6:]
        assert sorted(pages[:6]) == sorted(plain[:6])
        assert len(calls) == 1 + 1, "once for all pages, and once for the library here"


def test_a_hit_says_what_a_grid_needs(client):
    hit = ask(client, q="a cat", limit=1)["hits"][0]
    image = client.get(f"/api/images/{hit['id']}").json()
    for key in ("id", "path", "name", "width", "height", "taken_at", "content_hash", "thumbnail"):
        assert hit[key] == image[key]
    assert hit["thumbnail"] == f"/api/images/{hit['id']}/thumbnail?v={hit['content_hash'][:8]}"
    client.get(hit["thumbnail"])
    assert ask(client, q="a cat", limit=1)["hits"][0]["placeholder"].startswith("data:image/webp;base64,")


def test_without_a_query_all_images_come_newest_first(tmp_path):
    photos = write_photos(tmp_path / "photos")
    with open_app(index(tmp_path / "library", photos)) as client:
        answer = ask(client)
        times = [client.get(f"/api/images/{hit['id']}").json()["modified_at"] for hit in answer["hits"]]
        assert times == sorted(times, reverse=True)
        assert [hit["similarity"] for hit in answer["hits"]] == [None] * 3
        assert answer["parts"] == []
        for blank in ("", "  "):
            assert ask(client, q=blank)["hits"] == answer["hits"]
        pages = [ask(client, limit=2), ask(client, limit=2, cursor=ask(client, limit=2)["next"])]
        assert [hit for page in pages for hit in page["hits"]] == answer["hits"]
        assert pages[1]["next"] is None


def test_parts_are_words_rows_and_uploads_with_weights(client, demo):
    cat, coffee = id_of(client, "chelsea.png"), id_of(client, "coffee.png")
    like = ask(client, like=cat)
    assert like == {**ask(client, parts=json.dumps([{"id": cat}])), "took_ms": like["took_ms"]}
    assert "chelsea.png" not in names(like)
    assert (like["total"], like["parts"]) == (14, [{"label": "chelsea.png", "weight": 1, "kind": "image"}])
    with sl.Library.open(demo) as library:
        expected = [hit.image.path.name for hit in library.similar(library.path.parent / "photos/chelsea.png", top=20)]
    assert names(like) == expected

    photo = (demo.parent / "photos" / "coffee.png").read_bytes()
    upload = client.post("/api/uploads", files={"file": photo}).json()
    by_upload = ask(client, parts=json.dumps([{"upload": upload["key"]}]))
    assert names(by_upload)[0] == "coffee.png"
    assert by_upload["hits"][0]["similarity"] > 0.99
    mixed = ask(client, q="a cup", parts=json.dumps([{"upload": upload["key"]}, {"id": coffee, "weight": -0.5}]))
    assert [part["kind"] for part in mixed["parts"]] == ["text", "image", "image"]
    assert [part["weight"] for part in mixed["parts"]] == [1, 1, -0.5]
    assert "coffee.png" not in names(mixed)


def test_filters_minimum_similarity_and_captions(tmp_path):
    photos = write_photos(tmp_path / "photos")
    with open_app(index(tmp_path / "library", photos)) as client:
        assert names(ask(client, q="red", where="name like 'b%'")) == ["blue.png"]
        assert names(ask(client, where="name like 'b%'")) == ["blue.png"]
        best = ask(client, q="red")["hits"]
        second = sorted((hit["similarity"] for hit in best), reverse=True)[1]
        chosen = ask(client, q="red", min_similarity=second - 1e-6)
        assert (chosen["total"], len(chosen["hits"])) == (2, 2)
        row = next(hit["id"] for hit in best if hit["name"] == "green.png")
        client.put(f"/api/images/{row}/captions", json={"text": "a herring"})
        found = ask(client, q="herring", match="captions")
        assert (names(found), found["total"]) == (["green.png"], 1)
        assert found["hits"][0]["caption"] == "a herring"
        both = ask(client, q="herring", match="both")
        assert (names(both)[0], both["total"]) == ("green.png", 3)


def test_an_answer_without_hits_says_why(tmp_path):
    def note(client, **params):
        answer = ask(client, **params)
        assert (answer["hits"], answer["total"], answer["next"]) == ([], 0, None)
        return answer["note"]

    photos = write_photos(tmp_path / "photos", names=("red",))
    with open_app(tmp_path / "empty", model="starter") as client:
        assert note(client) == "The library is empty: add a folder to it."
        assert note(client, q="red") == "The library is empty: add a folder to it."
    with open_app(index(tmp_path / "library", photos)) as client:
        assert note(client, where="width > 9999") == "No image passes the filter."
        assert note(client, q="red", where="width > 9999") == "No image passes the filter."
        similarity = ask(client, q="red")["hits"][0]["similarity"]
        assert note(client, q="red", min_similarity=1) == (
            f"No image reaches the similarity 1; the nearest has {similarity:.3f}."
        )
        assert note(client, like=1) == "There is no other image."
        assert note(client, q="unheard", match="captions") == "These words are written about no image."
    with open_app(tmp_path / "library", model="ViT-B-32/openai") as client:  # the command line's
        assert note(client, q="red") == "No image has been indexed with ViT-B-32/openai yet."
        assert ask(client, q="red", model="starter")["total"] == 1


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"q": "dog -"}, 422, "Nothing follows '-'"),
        ({"q": "x" * 2001}, 422, "query.q"),
        ({"q": "0:dog"}, 422, "weight"),
        ({"where": "colour = 'red'"}, 422, "no field"),
        ({"where": "width > 'a'"}, 422, "number"),
        ({"min_similarity": 2}, 422, "less than or equal to 1"),
        ({"q": "a", "rerank": 251}, 422, "less than or equal to 250"),
        ({"like": 1, "rerank": 5}, 422, "the query looks for none"),
        ({"min_similarity": "nan", "q": "a"}, 422, "min_similarity"),
        ({"match": "all"}, 422, "query.match"),
        ({"limit": 0}, 422, "query.limit"),
        ({"limit": 501}, 422, "query.limit"),
        ({"like": 99999}, 404, "no image with the id 99999"),
        ({"like": 2**70}, 422, "query.like"),
        ({"parts": "["}, 422, "Invalid JSON"),
        ({"parts": "{}"}, 422, "valid array"),
        ({"parts": '[{"text": "a", "id": 1}]'}, 422, "exactly one of"),
        ({"parts": '[{"text": "a", "weight": 0}]'}, 422, "other than 0"),
        ({"parts": '[{"text": "a", "weight": 1e999}]'}, 422, "weight"),
        ({"parts": '[{"text": "a", "path": "/etc/passwd"}]'}, 422, "path"),
        ({"parts": '[{"upload": "../../etc/passwd"}]'}, 422, "upload"),
        ({"parts": '[{"upload": "' + "0" * 32 + '"}]'}, 410, "isn't kept any more"),
        ({"parts": json.dumps([{"text": "a"}] * 33)}, 422, "at most 32"),
        ({"parts": '[{"text": "a"}, {"text": "a", "weight": -1}]'}, 200, ""),
        ({"q": "a + a - a"}, 200, ""),
        ({"match": "captions", "like": 1}, 422, "searched by words"),
        ({"model": "no-such-model"}, 409, "no-such-model"),
        ({"library": "other"}, 404, "no library 'other'"),
        ({"q": "\x00"}, 200, ""),
        ({"q": "/etc/passwd"}, 200, ""),
        ({"q": "http://example.org/a.jpg"}, 200, ""),
    ],
)
def test_what_cannot_be_searched_is_named(client, params, status, message):
    response = client.get("/api/search", params=params)
    assert response.status_code == status, response.text
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert message in response.json()["detail"]


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "####",
        "é",
        "AAAA",
        "bnVsbA",
        "W10",
        write_cursor(Cursor(query="q", version="v", offset=-1)),
        "a" * 301,
        "%00",
    ],
)
def test_broken_cursors_are_refused(client, cursor):
    response = client.get("/api/search", params={"q": "dog", "cursor": cursor})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_a_cursor_belongs_to_its_query(client):
    cursor = ask(client, q="dog", limit=1)["next"]
    assert "another query" in ask(client, 400, q="cat", limit=1, cursor=cursor)["detail"]
    assert "another query" in ask(client, 400, q="dog", where="width > 1", cursor=cursor)["detail"]
    assert ask(client, q="dog", limit=3, cursor=cursor)["hits"]
    with pytest.raises(CursorError):
        read_cursor(write_cursor(Cursor(query="a", version="v", offset=2**60)), query="a")


def page_through(client, limit, **params):
    hits, cursor = [], None
    while True:
        answer = ask(client, limit=limit, **({"cursor": cursor} if cursor else {}), **params)
        hits += answer["hits"]
        if (cursor := answer["next"]) is None:
            return hits, answer["total"]


def test_pages_hold_every_row_once_in_order_however_deep_and_however_often_forgotten(many):
    with open_app(many) as client:
        library = client.app.state.libraries.get()
        for params in ({"q": "a blue thing"}, {"q": "thing", "match": "both"}, {"where": "width > 1"}):
            hits, total = page_through(client, 37, **params)
            assert len(hits) == total == 600
            assert len({hit["id"] for hit in hits}) == 600
            at_once, _ = page_through(client, 500, **params)
            assert [hit["id"] for hit in at_once] == [hit["id"] for hit in hits]
            if "where" not in params and "match" not in params:
                ratings = [hit["probability"] for hit in hits]
                assert ratings == sorted(ratings, reverse=True)
                plainly, _ = page_through(client, 37, **params, hub_correction=False)
                similarities = [hit["similarity"] for hit in plainly]
                assert similarities == sorted(similarities, reverse=True)
            first = ask(client, limit=300, **params)
            library.rankings = Rankings()  # as if 64 others had come since, or the server had been started again
            second = ask(client, limit=300, cursor=first["next"], **params)
            assert [hit["id"] for hit in first["hits"] + second["hits"]] == [hit["id"] for hit in hits]


def test_a_ranking_is_computed_once_for_all_its_pages(many, monkeypatch):
    depths = []
    rank = rankings.Ranking._grow

    def counted(self):
        rank(self)
        depths.append(self._depth)

    monkeypatch.setattr(rankings.Ranking, "_grow", counted)
    with open_app(many) as client:
        page_through(client, 20, q="a blue thing")
        assert depths == [250, 600]
        ask(client, q="a blue thing")
        assert len(depths) == 2


def test_writes_are_seen_by_new_searches_while_old_pages_stay_in_order(tmp_path):
    photos = write_photos(tmp_path / "photos")
    library = index(tmp_path / "library", photos)
    with open_app(library) as client:
        first = ask(client, q="red", limit=1)
        write_photos(photos, names=("grey",))
        (photos / "green.png").unlink()
        index(library, photos)  # another process would do the same
        assert sorted(names(ask(client, q="red"))) == ["blue.png", "grey.png", "red.png"]
        rest, cursor = [], first["next"]
        while cursor:
            page = ask(client, q="red", limit=1, cursor=cursor)
            rest, cursor = rest + names(page), page["next"]
        assert sorted(names(first) + rest) == ["blue.png", "red.png"]  # green is gone, grey came later


def test_several_libraries_are_told_apart(tmp_path):
    one = index(tmp_path / "a" / "library", write_photos(tmp_path / "one", names=("red",)))
    two = index(tmp_path / "b" / "library", write_photos(tmp_path / "two", names=("blue",)))
    with open_app(one, two) as client:
        assert names(ask(client, q="red")) == ["red.png"]
        hit = ask(client, q="red", library="library-2")["hits"][0]
        assert hit["name"] == "blue.png"
        assert hit["thumbnail"].endswith("&library=library-2")
        assert client.get(hit["thumbnail"]).status_code == 200
        assert client.get("/api/stats", params={"library": "library-2"}).json()["folders"] == [str(tmp_path / "two")]
        shared = client.app.state.libraries
        assert shared.get("library").encoder is shared.get("library-2").encoder


def test_other_weights_under_the_same_name_are_refused(tmp_path, monkeypatch):
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", names=("red",)))
    from dataclasses import replace

    from sightline.faces.service.models import SharedEncoder

    real = SharedEncoder.identity.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(SharedEncoder, "identity", property(lambda self: replace(real(self), weights_hash="other")))
    with open_app(library) as client:
        problem = ask(client, 503, q="red")
        assert problem["type"] == "/problems/library"


def test_many_clients_search_at_once(many):
    with open_app(many) as client:
        expected = {f"thing {i}": ask(client, q=f"thing {i}", limit=10) for i in range(8)}
        barrier = threading.Barrier(32)

        def search(i):
            barrier.wait()
            return [ask(client, q=f"thing {i % 8}", limit=10)["hits"] for _ in range(5)]

        with ThreadPoolExecutor(32) as pool:
            for i, answers in enumerate(pool.map(search, range(32))):
                assert all(hits == expected[f"thing {i % 8}"]["hits"] for hits in answers)


def test_rankings_are_kept_up_to_a_number_of_rankings_and_of_rows(monkeypatch):
    monkeypatch.setattr(rankings, "_KEPT", 3)
    kept = Rankings()
    for i in range(5):
        kept.keep(str(i), Ranking.of_rows(np.arange(10)))
    assert [key for key in "01234" if kept.find(key)] == ["2", "3", "4"]
    kept.find("2")
    kept.keep("5", Ranking.of_rows(np.arange(10)))
    assert [key for key in "2345" if kept.find(key)] == ["2", "4", "5"]
    monkeypatch.setattr(rankings, "_KEPT_ROWS", 15)
    kept.keep("6", Ranking.of_rows(np.arange(10)))
    assert len(kept) == 1
    kept.keep("7", Ranking.of_rows(np.arange(100)))  # larger than all, but the one that is asked for
    assert kept.find("7")


def test_a_ranking_that_ends_early_is_not_asked_again():
    asked = []

    def rank(depth):
        asked.append(depth)
        return [(row, 1 - row / 1000) for row in range(min(depth, 30))]

    ranking = Ranking(rank, available=10_000, total=None)
    assert [row for row, _ in ranking.page(0, 20)] == list(range(20))
    assert ranking.total == 30
    assert ranking.page(25, 20)[-1] == (29, pytest.approx(0.971))
    assert asked == [250]


def test_the_model_that_searches_use_can_be_named(tmp_path, client):
    assert ask(client, q="cat", model="starter")["model"] == "starter"
    upload = client.post("/api/uploads", files={"file": image_bytes()}, params={"model": "starter"})
    assert upload.json()["thumbnail"].startswith("data:image/webp;base64,")


def test_a_query_has_a_verdict_and_a_minimum_probability_shortens_the_list(client):
    answer = ask(client, q="a horse")
    assert set(answer["verdict"]) == {"present", "matches", "likely", "unlikely_below", "notices"}
    assert 0 < answer["verdict"]["present"] < 1
    ratings = [hit["probability"] for hit in answer["hits"]]
    likely = [rating >= answer["verdict"]["unlikely_below"] for rating in ratings]
    assert len(likely) == answer["total"]
    assert 0 < answer["verdict"]["likely"] == sum(likely) < answer["total"]
    assert ask(client, q="a horse", limit=1)["verdict"] == answer["verdict"]
    least = (ratings[1] + ratings[2]) / 2
    assert [hit["id"] for hit in ask(client, q="a horse", min_probability=least)["hits"]] == [
        hit["id"] for hit in answer["hits"][:2]
    ]
    nothing = ask(client, q="a horse", min_probability=1)
    assert nothing["total"] == 0
    assert nothing["note"] == "No image is right with a probability of 1 or more."


def test_nothing_matches_gibberish_and_the_list_is_whole(client):
    answer = ask(client, q="xqzv blorf")
    assert answer["total"] == 15
    assert "The model starter doesn't know these words: xqzv, blorf." in answer["verdict"]["notices"]


def test_images_have_a_probability_and_a_verdict_too(client):
    like = id_of(client, "hopper.jpg")
    answer = ask(client, like=like)
    ratings = [hit["probability"] for hit in answer["hits"]]
    assert ratings == sorted(ratings, reverse=True)
    assert 0 < ratings[-1] < ratings[0] < 1
    assert answer["verdict"]["likely"] is None, "the nearest are wanted, however likely"
    assert ask(client, like=like, min_probability=ratings[0])["total"] == 1
    assert ask(client)["verdict"] is None


def test_sorted_by_date_only_what_is_likely_comes_and_the_newest_first(client):
    best = ask(client, q="an animal")
    likely = {hit["id"] for hit in best["hits"] if hit["probability"] >= best["verdict"]["unlikely_below"]}
    newest = ask(client, q="an animal", sort="date")
    assert [hit["id"] for hit in newest["hits"]] == [hit["id"] for hit in ask(client)["hits"] if hit["id"] in likely]
    assert 1 < newest["total"] == newest["verdict"]["likely"] == len(likely) < best["total"]
    assert newest["verdict"]["present"] == best["verdict"]["present"]
    by_id = {hit["id"]: (hit["similarity"], hit["probability"]) for hit in best["hits"]}
    assert all(by_id[hit["id"]] == (hit["similarity"], hit["probability"]) for hit in newest["hits"])
    page = ask(client, q="an animal", sort="date", limit=1)
    assert ask(client, q="an animal", sort="date", limit=1, cursor=page["next"])["hits"] == newest["hits"][1:2]
    nothing = ask(client, q="xqzv blorf", sort="date")
    assert (nothing["total"], nothing["note"][:41]) == (0, "No image is likely enough to show it. Sor")
    assert "leave rerank out" in ask(client, 422, q="a horse", sort="date", rerank=5)["detail"]


@pytest.mark.parametrize("where", [None, "width > 400"])
def test_pages_of_the_newest_are_what_the_command_line_gives(demo, client, where):
    asked = {"sort": "date", "min_probability": 0.005, **({"where": where} if where else {})}
    with sl.Library.open(demo, read_only=True) as library:
        whole = library.search("an animal", top=100, **asked)
    pages, probabilities, cursor = [], [], None
    for _ in range(3):
        more = {"cursor": cursor} if cursor else {}
        page = ask(client, q="an animal", limit=2, **asked, **more)
        pages.append([hit["path"] for hit in page["hits"]])
        probabilities += [hit["probability"] for hit in page["hits"]]
        cursor = page["next"]
        client.app.state.libraries.get().rankings = Rankings()  # what was forgotten comes back the same
    assert len(whole) >= 6
    assert pages == [[str(hit.image.path) for hit in whole[at : at + 2]] for at in (0, 2, 4)]
    assert probabilities == pytest.approx([hit.probability for hit in whole[:6]], abs=1e-6)
    assert (page["total"], page["verdict"]["present"]) == (len(whole), pytest.approx(whole.verdict.present, abs=1e-6))


@pytest.mark.parametrize("sort", ["relevance", "date"])
def test_a_minimum_that_none_reaches_leaves_the_verdict_as_it_is(client, sort):
    freely, strictly = (ask(client, q="an animal", sort=sort, min_probability=least) for least in (0, 1))
    assert (strictly["total"], strictly["verdict"]["present"]) == (0, freely["verdict"]["present"])
    assert strictly["verdict"]["present"] > 0.16


def test_hits_tell_why_and_beginnings_count_while_typing(client):
    name = ask(client)["hits"][0]["name"]
    hits = ask(client, q=name)["hits"]
    assert hits[0]["name"] == name
    assert "name" in hits[0]["why"]
    begun = max(re.findall("[a-z]+", name.lower()), key=len)[:-2]
    told = [any("name" in hit["why"] for hit in ask(client, q=begun, typing=on)["hits"]) for on in (False, True)]
    assert told == [False, True]
    assert [ask(client, q=begun, match="captions", typing=on)["total"] > 0 for on in (False, True)] == [False, True]


def test_a_year_in_the_words_is_a_filter_that_can_be_taken_off(demo, client):
    with sl.Library.open(demo, read_only=True) as library:
        years = [record.info.taken_at[:4] for record in library.store.scan() if record.info.taken_at]
        words = f"an animal {years[0]}"
        read, plain = library.search(words), library.search(words, plain=True)
        assert [one.kind for one in read.read_as] == ["dates"]
        assert (len(read), plain.read_as) == (years.count(years[0]), ())
    page = ask(client, q=words)
    assert [(one["kind"], one["words"]) for one in page["read_as"]] == [("dates", years[0])]
    assert page["total"] == len(read)
    whole = ask(client, q=words, plain="dates,places")
    assert (whole["read_as"], whole["total"]) == ([], ask(client, q="an animal")["total"])
    assert (
        ask(client, q="an animal", after=years[0])["total"]
        == ask(client, q="an animal", where=f"taken_at >= '{years[0]}'")["total"]
    )
