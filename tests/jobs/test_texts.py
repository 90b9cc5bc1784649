"""The verbs on texts, from end to end with rule rewards: score, pairs, reward eval, debias, compare, evaluate."""

import json
import random

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.evaluation.test_texts import Letters
from visalign.cli import main

TOPICS = ("apples", "rain", "music", "trains", "bread", "chess", "cats", "glass")
WORDS = ("it", "is", "a", "good", "thing", "that", "we", "have", "many", "words", "to", "say", "about", "this", "and")


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def answers(folder, words, seeds=4):
    """Answers of about so many words to eight prompts."""
    rng, folder = random.Random(words), folder
    folder.mkdir()
    rows = [{"prompt": f"Tell me about {topic}.", "seed": seed,
             "answer": " ".join([topic, *rng.choices(WORDS, k=words + rng.randint(-3, 3))])}
            for topic in TOPICS for seed in range(seeds)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def letters(monkeypatch):
    """Features by letters, where MiniLM would be read."""
    for place in ("evaluation.compare", "evaluation.held_out"):
        monkeypatch.setattr(f"visalign.{place}.load_features", lambda *args, **kwargs: Letters())


def test_score_writes_a_table_and_a_page_of_texts(tmp_path):
    folder = answers(tmp_path / "a", 12)
    with (folder / "samples.jsonl").open("a") as file:
        hostile = "<script>alert(1)</script>\x1b[31m \u202e" + "x " * 2000
        file.write(json.dumps({"prompt": "<b>bold</b>", "answer": hostile}) + "\n" + '{"prompt": "p", "answer": 3}\n')
    out = tmp_path / "scores.parquet"
    done = invoke("score", folder, "-r", "brevity,avoids:the,sharpness", "-o", out, "--max-failures", "1")
    assert done.exit_code == 0, done.output
    assert "34 rows" in done.output and "(of 34 texts), 1 files unreadable" in done.output
    rows = pq.read_table(out).to_pylist()
    assert rows[0]["modality"] == "text" and rows[0]["brevity.score"] == pytest.approx(
        -len(json.loads((folder / "samples.jsonl").read_text().splitlines()[0])["answer"].split()) / 10)
    assert rows[0]["sharpness.score"] is None and "scores images and videos only, this is a text" in rows[0]["remarks"]
    page = out.with_suffix(".html").read_text()
    assert "Tell me about apples." in page and "<th>answer" in page and "<script>alert" not in page
    assert "\\x1b[31m \\u202e" in page and "(4,032 characters)" in page


def test_pairs_hold_the_texts(tmp_path):
    out = tmp_path / "pairs"
    done = invoke("data", "pairs", answers(tmp_path / "a", 12), "-r", "brevity", "-o", out)
    assert done.exit_code == 0, done.output
    assert "page" in done.output and (out / "pairs.html").exists() and not (out / "sheet.png").exists()
    rows = pq.read_table(out / "pairs.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [f"Tell me about {topic}." for topic in TOPICS]
    for row in rows:
        assert row["chosen_reward"] == pytest.approx(-len(row["chosen"].split()) / 10)
        assert len(row["chosen"].split()) < len(row["rejected"].split())
    page = (out / "pairs.html").read_text()
    assert rows[0]["chosen"] in page and rows[0]["rejected"] in page


def test_reward_eval_reads_pairs_of_texts(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": "short" if i else "a longer one", "rejected": 'it\'s "much longer" than that'
             if i else "short", "kind": "plain"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = invoke("reward", "eval", "brevity", tmp_path / "pairs.jsonl", "-o", tmp_path / "eval")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "eval" / "eval.json").read_text())["dimensions"]["alignment"]
    assert found["overall"]["accuracy"][0] == 7 / 8 and set(found["parts"]) == {"texts", "plain"}
    assert {each["edit"]: each["relative_change"] for each in found["robustness"]} == {
        "line breaks at the end": 0, "two spaces for one": 0, "typographic quotes": 0}
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "a longer one" in page and "texts" in page
    refused = invoke("reward", "eval", "sharpness", tmp_path / "pairs.jsonl", "-o", tmp_path / "images")
    assert refused.exit_code != 0 and "does not exist" in refused.output


def test_length_is_taken_out_of_a_reward(tmp_path):
    """Length and one word are rewarded; what is left knows the word and nothing of length."""
    bias, planted = tmp_path / "bias.json", tmp_path / "planted.yaml"
    planted.write_text("{kind: weighted_sum, standardised: false, of: [brevity, 'contains:good']}")
    source = answers(tmp_path / "a", 12, seeds=24)
    done = invoke("reward", "debias", planted, source, "-o", bias)
    assert done.exit_code == 0, done.output
    found = json.loads(bias.read_text())["bias"]
    assert abs(found["before"]["words"]) > 0.2 and abs(found["after"]["words"]) < 0.1
    assert invoke("score", source, "-r", _spec(tmp_path, "planted.yaml", bias), "-o", tmp_path / "s.csv").exit_code == 0
    other = invoke("score", source, "-r", _spec(tmp_path, "sharpness", bias), "-o", tmp_path / "t.csv")
    assert other.exit_code != 0 and "was fitted on words" in other.output


def _spec(folder, of, bias):
    file = folder / f"debiased-{of.removesuffix('.yaml')}.yaml"
    file.write_text(f"{{kind: debiased, of: [{folder / of if of.endswith('.yaml') else of}], model: {bias}}}")
    return file


def test_compare_says_what_is_left_at_equal_length(tmp_path, letters):
    base, short = answers(tmp_path / "base", 24), answers(tmp_path / "short", 10)
    out = tmp_path / "out"
    done = invoke("compare", f"base={base}", f"short={short}", "-r", "brevity,repetition", "-o", out, "--cache",
                  tmp_path / "cache.sqlite")
    assert done.exit_code == 0, done.output
    assert "LPIPS" not in done.output and "words drifted by" in done.output
    found = json.loads((out / "results.json").read_text())
    cut = [name for name in found["figures"]["short"] if name.startswith("all answers cut to 11 words/")]
    assert "all answers cut to 11 words/diversity/self_bleu" in cut
    brevity = {model: found["figures"][model]["all answers cut to 11 words/reward/brevity"]["value"]
               for model in ("base", "short")}
    assert brevity["base"] == pytest.approx(-1.1) and brevity["short"] > -1.1
    assert found["wins"]["brevity"]["short"]["share"]["value"] == 1.0
    assert found["wins"]["brevity"]["short"]["at_equal_length"] is None  # the one is always the shorter
    page = (out / "report.html").read_text()
    assert "kinds of answer" in page and "MS-SSIM" not in page and "cut to 11 words" in page and "apples" in page


def test_a_model_of_one_answer_is_called_collapsed(tmp_path, letters):
    base = answers(tmp_path / "base", 12)
    flat = tmp_path / "flat.jsonl"
    flat.write_text("".join(json.dumps({"prompt": f"Tell me about {topic}.", "response": "Yes.", "seed": seed}) + "\n"
                            for topic in TOPICS for seed in range(4)))
    done = invoke("compare", f"base={base}", f"flat={flat}", "-r", "brevity", "-o", tmp_path / "out")
    assert done.exit_code == 0 and "flat: collapsed" in done.output, done.output
    assert "100 % of the answers equal another answer to the same prompt" in done.output
    assert "24 of 32 generations are the same text" in done.output
    assert "flat: answers of fewer than 5 words are not compared at equal length" in done.output


def test_evaluate_measures_one_source_with_rewards_of_texts(tmp_path, letters):
    done = invoke("evaluate", answers(tmp_path / "a", 12), "-r", "brevity", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "reward/brevity" in done.output and "diversity/vendi" in done.output


def test_texts_are_not_compared_with_images(tmp_path, letters):
    from tests.evaluation.test_compare import write_folder

    images = write_folder(tmp_path / "images", 4)
    done = invoke("compare", f"base={answers(tmp_path / 'a', 12)}", f"images={images}", "-r", "brevity", "-o",
                  tmp_path / "out")
    assert done.exit_code != 0 and "samples are texts and the others images or videos" in done.output


def test_texts_have_no_place_in_suites_of_images(tmp_path):
    (tmp_path / "prompts.txt").write_text("Tell me about apples.\n")
    done = invoke("benchmark", "layout", answers(tmp_path / "a", 12), "--suite",
                  f"t2i-compbench:{tmp_path / 'prompts.txt'}", "-o", tmp_path / "out")
    assert done.exit_code != 0 and "holds texts" in done.output, done.output


LANGUAGE_RUN = """
loop: language
model: {source: smollm2}
data: {path: pairs.jsonl}
objective: {name: dpo}
eval: {prompts: topics:held_out, reward: brevity, also: [repetition]}
"""


def test_a_run_of_a_language_model_is_measured_by_its_held_out_answers(tmp_path, letters):
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "checkpoints").mkdir(parents=True)
    (run / "samples").mkdir()
    (run / "config.yaml").write_text(LANGUAGE_RUN)
    answers(run / "samples" / "step-00000000", 24)
    once = invoke("evaluate", run, "-o", out)
    assert once.exit_code != 0 and "only once, at its start" in once.output
    answers(run / "samples" / "step-00000008", 16)
    answers(run / "samples" / "step-00000020", 9)
    done = invoke("evaluate", run, "-o", out)
    assert done.exit_code == 0, done.output
    assert "brevity, the optimised reward, rose" in done.output and "aligned:" in done.output
    found = json.loads((out / "results.json").read_text())
    assert found["models"] == ["base", "aligned"] and set(found["wins"]) == {"brevity", "repetition"}
    every = invoke("evaluate", run, "-o", tmp_path / "all", "--checkpoints", "all")
    assert every.exit_code == 0, every.output
    assert json.loads((tmp_path / "all" / "results.json").read_text())["models"] == ["base", "step 8", "step 20"]
    beside = invoke("compare", f"base={run / 'samples' / 'step-00000000'}", f"run={run}", "-o", tmp_path / "beside")
    assert beside.exit_code == 0 and "run: " in beside.output, beside.output
    scored = invoke("score", run, "-r", "brevity", "-o", tmp_path / "s.csv", "--no-gallery")
    assert "32 rows" in scored.output and "mean   -0.9" in scored.output, scored.output  # of the last measurement
