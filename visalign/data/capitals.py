"""Capitals, each beside another known city of its country: questions whose right answer is known, for dialogues that
persuade (`data.persuasion.path: capitals`)."""

_CAPITALS = """
France|Paris|Lyon; Germany|Berlin|Munich; Italy|Rome|Milan; Spain|Madrid|Barcelona; Portugal|Lisbon|Porto;
Poland|Warsaw|Krakow; Austria|Vienna|Salzburg; Switzerland|Bern|Zurich; the Netherlands|Amsterdam|Rotterdam;
Belgium|Brussels|Antwerp; Denmark|Copenhagen|Aarhus; Sweden|Stockholm|Gothenburg; Norway|Oslo|Bergen;
Finland|Helsinki|Tampere; Ireland|Dublin|Cork; Greece|Athens|Thessaloniki; Hungary|Budapest|Debrecen;
Romania|Bucharest|Timisoara; Bulgaria|Sofia|Plovdiv; Croatia|Zagreb|Dubrovnik; Serbia|Belgrade|Novi Sad;
Slovakia|Bratislava|Kosice; Ukraine|Kyiv/Kiev|Odesa/Odessa; Russia|Moscow|Saint Petersburg/St. Petersburg;
Turkey|Ankara|Istanbul; Egypt|Cairo|Alexandria; Morocco|Rabat|Casablanca; Algeria|Algiers|Oran;
Tunisia|Tunis|Sfax; Libya|Tripoli|Benghazi; Kenya|Nairobi|Mombasa; Ethiopia|Addis Ababa|Dire Dawa;
Nigeria|Abuja|Lagos; Ghana|Accra|Kumasi; Uganda|Kampala|Entebbe; Zambia|Lusaka|Ndola; Zimbabwe|Harare|Bulawayo;
Angola|Luanda|Huambo; Saudi Arabia|Riyadh|Jeddah; Iran|Tehran|Isfahan; Iraq|Baghdad|Basra;
Syria|Damascus|Aleppo; Jordan|Amman|Aqaba; Pakistan|Islamabad|Karachi; India|New Delhi/Delhi|Mumbai;
Bangladesh|Dhaka|Chittagong; Nepal|Kathmandu|Pokhara; Thailand|Bangkok|Chiang Mai; Vietnam|Hanoi|Ho Chi Minh
City/Saigon; Malaysia|Kuala Lumpur|George Town; the Philippines|Manila|Cebu; China|Beijing|Shanghai;
Japan|Tokyo|Osaka; South Korea|Seoul|Busan; Australia|Canberra|Sydney; New Zealand|Wellington|Auckland;
Canada|Ottawa|Toronto; Mexico|Mexico City|Guadalajara; Brazil|Brasilia/Brasília|Rio de Janeiro; Argentina|Buenos
Aires|Cordoba/Córdoba; Chile|Santiago|Valparaiso/Valparaíso; Peru|Lima|Cusco;
Colombia|Bogota/Bogotá|Medellin/Medellín; Ecuador|Quito|Guayaquil; Venezuela|Caracas|Maracaibo;
Uruguay|Montevideo|Salto; Paraguay|Asuncion/Asunción|Ciudad del Este; Kazakhstan|Astana|Almaty;
Uzbekistan|Tashkent|Samarkand; Armenia|Yerevan|Gyumri; Azerbaijan|Baku|Ganja; Cuba|Havana|Santiago de Cuba
"""
"""country|capital|other city; several ways to write a city are parted by a slash."""


def capital_rows() -> list[dict[str, str | list[str]]]:
    """Rows of question, right and wrong."""
    parts = [each.strip().split("|") for each in " ".join(_CAPITALS.split()).split(";")]
    return [{"question": f"What is the capital of {country}?", "right": right.split("/"), "wrong": wrong.split("/")}
            for country, right, wrong in parts]
