"""Function words of a few languages, by which a text's language is told."""

from visalign.media.words import tokens_of

STOPWORDS: dict[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in {
    "en": "the of and to a in is it you that he was for on are with as i his they be at one have this from or had by "
          "but what some we can out other were all there when your how said each she which their",
    "de": "der die das und in zu den ist nicht von sie mit dem es ein eine auf für sich des auch als an er hat im wir "
          "aber bei oder nur noch wie nach über aus einen einem wenn ich war sind wird",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ya o este sí "
          "porque esta entre cuando muy sin sobre también me hasta hay donde quien",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec son mais "
          "comme ou si leur y dont cette elle nous vous ces aux sa",
    "it": "di che è la il un a per in una mi sono ho non ma lo ha le si con da se come io ti questo bene sei della del "
          "nel gli alla più anche delle dei o nella i",
    "nl": "de het een en van ik te dat die in je niet zijn is met op voor er maar om hem dan zou of wat mijn men dit "
          "zo door over ze zich bij ook tot naar hij aan",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu "
          "sua ou ser quando muito há nos já está eu também",
}.items()}


_ALL = frozenset().union(*STOPWORDS.values())


def language_share(text: str, language: str) -> float | None:
    """Which share of the text's function words are words of the language; None of a text without one."""
    found = [word in STOPWORDS[language] for word in tokens_of(text) if word in _ALL]
    return sum(found) / len(found) if found else None
