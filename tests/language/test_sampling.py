import torch

from tests.tiny.languages import tiny_language_model, tiny_tokenizer
from visalign.config.language_answers import AnswerSettings
from visalign.language.sampling import Answerer, GumbelChoice, sample_answers, within_top

SETTINGS = AnswerSettings(max_tokens=6)


def answers(per_prompt=3, seed=5, **settings):
    answerer = Answerer(tiny_language_model(), tiny_tokenizer())
    return [str(sample.answer) for sample in sample_answers(
        answerer, ["What is rain?", "Tell me about salt and honey."], per_prompt,
        SETTINGS.model_copy(update=settings), seed=seed, label="", quiet=True)]


def test_an_answer_does_not_depend_on_what_it_is_drawn_together_with():
    assert answers(batch_size=1) == answers(batch_size=4) == answers(batch_size=32)


def test_seeds_differ_and_temperature_zero_takes_the_likeliest():
    assert len(set(answers())) == 6
    greedy = answers(temperature=0.0)
    assert greedy[0] == greedy[1] == greedy[2]


def test_drawing_leaves_random_numbers_and_mode_as_they_were():
    answerer = Answerer(tiny_language_model().train(), tiny_tokenizer())
    state = torch.get_rng_state()
    sample_answers(answerer, ["What is rain?"], 1, SETTINGS, seed=0, label="", quiet=True)
    assert torch.equal(state, torch.get_rng_state()) and answerer.model.training


def test_gumbel_noise_draws_from_the_softmax():
    """Of 4,000 draws at temperature 2 the shares are softmax(scores / 2), within four standard errors."""
    scores = torch.tensor([[2.0, 0.0, -2.0]]).expand(4000, 3)
    drawn = GumbelChoice(range(4000), temperature=2.0, top_p=1.0)(None, scores).argmax(1)
    wanted = (scores[0] / 2).softmax(0)
    shares = torch.bincount(drawn, minlength=3) / 4000
    assert ((shares - wanted).abs() < 4 * (wanted * (1 - wanted) / 4000).sqrt()).all()


def test_top_p_keeps_the_fewest_tokens_that_hold_the_share():
    """Shares .5, .3, .2: of .5 the first alone is enough, of .6 and of .8 two are needed."""
    scores = torch.tensor([[0.5, 0.2, 0.3]]).log()
    kept = [within_top(scores, top_p).isfinite()[0].tolist() for top_p in (0.4, 0.6, 0.81)]
    assert kept == [[True, False, False], [True, False, True], [True, True, True]]
