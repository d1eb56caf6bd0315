"""The words that the synthetic corpus speaks, each written with niqqud and as eSpeak phonemes.

The plain spelling is the pointed one without its marks, so the two cannot disagree. Pointed words keep the letters of
plain writing (`חוּלְצָה`, not `חֻלְצָה`). Phonemes are eSpeak's: `S` is shin, `X` het and khaf, `Z` zh, `?` a glottal stop,
and `'` precedes the stressed vowel. They are written by hand because eSpeak reads Hebrew letters without their vowels.
"""

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """One form of a word: `הילד` and `ילד` would be two."""

    pointed: str
    """With niqqud, ASCII quotes for geresh and gershayim, and maqaf as U+05BE."""

    phonemes: str
    """For eSpeak, without the surrounding brackets."""

    @property
    def plain(self) -> str:
        """As the transcript should have it: without marks, ASCII quotes, maqaf as a hyphen."""
        letters = (character for character in self.pointed if unicodedata.category(character) != "Mn")
        return "".join(letters).replace("\u05be", "-")


def _words(table: str) -> tuple[Word, ...]:
    return tuple(Word(*line.split()) for line in table.strip().splitlines())


# Groups ending in _m and _f are masculine and feminine: subjects agree with verbs, nouns with adjectives and numbers.
GROUPS: dict[str, tuple[Word, ...]] = {
    "person_m": _words("""
        דָּוִד          dav'id
        יוֹסִי          j'osi
        מֹשֶׁה          moS'e
        הַיֶּלֶד        haj'eled
        הָרוֹפֵא        harof'e
        הַחַייָּל       haXaj'al
        הַנֶּהָג        hanah'ag
        הַשָּׁכֵן        haSaX'en
        הַתַּלְמִיד      hatalm'id
        אַבָּא          ?'aba
        סַבָּא          s'aba
        צַהַ"ל         ts'ahal
        הַמַּנְכַּ"ל      hamank'al
        הָרָמַטְכָּ"ל     haramatk'al
    """),
    "doctor_m": _words("""
        ד"ר           d'oktor
    """),
    "surname_m": _words("""
        כֹּהֵן          koh'en
        לֵוִי           lev'i
    """),
    "person_f": _words("""
        רִבְקָה         rivk'a
        דִּינָה         d'ina
        שָׂרָה          s'ara
        הַיַּלְדָּה       hajald'a
        הָרוֹפְאָה       harof?'a
        הַשְּׁכֵנָה       haSXen'a
        הַמּוֹרָה        hamor'a
        הַתַּלְמִידָה     hatalmid'a
        הַזַּמֶּרֶת       hazam'eret
        אִמָּא          ?'ima
        סָבְתָא         s'avta
        אַרְהַ"ב        ?artsothabr'it
    """),
    "verb_m": _words("""
        קָנָה          kan'a
        רָאָה          ra?'a
        מָצָא          mats'a
        שָׁכַח          SaX'aX
        הֵבִיא         hev'i
        לָקַח          lak'aX
        מָכַר          maX'ar
        חִיפֵּשׂ         Xip'es
        קִיבֵּל         kib'el
    """),
    "verb_f": _words("""
        קָנְתָה         kant'a
        רָאֲתָה         ra?at'a
        מָצְאָה         mats?'a
        שָׁכְחָה         SaXeX'a
        הֵבִיאָה        hev'i?a
        לָקְחָה         lakX'a
        מָכְרָה         maXr'a
        חִיפְּשָׂה        Xips'a
        קִיבְּלָה        kibl'a
    """),
    "eats_m": _words("""
        אָכַל          ?aX'al
    """),
    "eats_f": _words("""
        אָכְלָה         ?aXl'a
    """),
    "moves_m": _words("""
        הָלַךְ          hal'aX
        יָשַׁב          jaS'av
        חָזַר          Xaz'ar
        עָבַד          ?av'ad
    """),
    "moves_f": _words("""
        הָלְכָה         halX'a
        יָשְׁבָה         jaSv'a
        חָזְרָה         Xazr'a
        עָבְדָה         ?avd'a
    """),
    "thing_m": _words("""
        סֵפֶר          s'efer
        מִכְתָּב         miXt'av
        כִּיסֵּא         kis'e
        עִיתּוֹן         ?it'on
        מַפְתֵּחַ        maft'eaX
        כַּדּוּר         kad'ur
        צֶ'ק          tS'ek
        זָ'קֶט         Z'aket
    """),
    "thing_f": _words("""
        מַתָּנָה         matan'a
        תְּמוּנָה        tmun'a
        חוּלְצָה        Xults'a
        מְכוֹנִית       meXon'it
        בּוּבָּה         bub'a
        גִ'ירָפָה       dZir'afa
    """),
    "food_m": _words("""
        לֶחֶם          l'eXem
        תַּפּוּחַ        tap'uaX
        צִ'יפְּס         tS'ips
    """),
    "food_f": _words("""
        עוּגָה         ?ug'a
        גְּלִידָה        glid'a
        בָּנָנָה         ban'ana
    """),
    "adjective_m": _words("""
        גָּדוֹל         gad'ol
        קָטָן          kat'an
        חָדָשׁ          Xad'aS
        אָדוֹם         ?ad'om
        לָבָן          lav'an
        יָרוֹק         jar'ok
    """),
    "adjective_f": _words("""
        גְּדוֹלָה        gdol'a
        קְטַנָּה         ktan'a
        חֲדָשָׁה         XadaS'a
        אֲדוּמָּה        ?adum'a
        לְבָנָה         levan'a
        יְרוּקָּה        jeruk'a
    """),
    "number_m": _words("""
        שְׁנֵי          Sn'ej
        שְׁלוֹשָׁה        SloS'a
        אַרְבָּעָה        ?arba?'a
        חֲמִישָּׁה        XamiS'a
    """),
    "number_f": _words("""
        שְׁתֵּי          St'ej
        שָׁלוֹשׁ         Sal'oS
        אַרְבַּע         ?'arba
        חָמֵשׁ          Xam'eS
    """),
    "things_m": _words("""
        סְפָרִים        sfar'im
        מִכְתָּבִים       miXtav'im
        תַּפּוּחִים       tapuX'im
        כַּדּוּרִים       kadur'im
    """),
    "things_f": _words("""
        תְּמוּנוֹת       tmun'ot
        מַתָּנוֹת        matan'ot
        עוּגוֹת        ?ug'ot
        חוּלְצוֹת       Xults'ot
    """),
    "place": _words("""
        בַּבַּיִת        bab'ajit
        בַּגַּן         bag'an
        בָּרְחוֹב        barX'ov
        בַּחֲנוּת        baXan'ut
        בַּשּׁוּק        baS'uk
        בַּמִּשְׂרָד       bamisr'ad
        בְּבֵית־סֵפֶר     bevejts'efer
        בְּתֵל־אָבִיב     betelav'iv
        בְּחֵיפָה        beXejf'a
        בִּירוּשָׁלַיִם    biruSal'ajim
    """),
    "time": _words("""
        הַיּוֹם         haj'om
        אֶתְמוֹל        ?etm'ol
        בַּבּוֹקֶר       bab'oker
        בָּעֶרֶב        ba?'erev
        בַּלַּיְלָה       bal'ajla
        בְּשַׁבָּת        beSab'at
    """),
    # Words that sentence patterns name themselves.
    "function": _words("""
        אֶת           ?et
        עִם           ?im
        לֹא           lo
        גַּם           gam
        עַל           ?al
        מִי           mi
        אֵיפֹה         ?'ejfo
        מָתַי          mat'aj
        לָמָּה          l'ama
        שָׁלוֹם         Sal'om
        תּוֹדָה         tod'a
        רַבָּה          rab'a
    """),
}

WORDS: tuple[Word, ...] = tuple(word for group in GROUPS.values() for word in group)

FUNCTION_WORDS: dict[str, Word] = {word.plain: word for word in GROUPS["function"]}
