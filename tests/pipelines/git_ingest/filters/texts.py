"""Prose in many languages, with the encodings in which files of each language are found."""

from typing import Final

TEXTS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "German": (
        ("latin_1", "cp1252", "iso8859_15", "cp850", "mac_roman"),
        (
            "Alle Menschen sind frei und gleich an Würde und Rechten geboren.\n"
            "Überprüfung der Größe für übergroße Körper, bevor sie gezeichnet werden\n"
            "Der Schlüssel läuft nach dreißig Tagen ab; danach müssen Änderungen "
            "bestätigt werden.\n"
        ),
    ),
    "French": (
        ("latin_1", "cp1252", "iso8859_15", "cp850", "mac_roman"),
        (
            "Tous les êtres humains naissent libres et égaux en dignité et en droits.\n"
            "Ils sont doués de raison et de conscience et doivent agir les uns envers les autres.\n"
            "Vérifier la clé à la fin, même où le côté reçu a déjà été ajouté par la tâche\n"
        ),
    ),
    "French with ligatures": (
        ("cp1252", "iso8859_15"),
        (
            "Le nœud du réseau est au cœur de la méthode, c'est là où la clé est gardée.\n"
            "Une œuvre à part entière, même sans être finie, a été déposée près de la sœur aînée.\n"
        ),
    ),
    "Spanish": (
        ("latin_1", "cp1252", "iso8859_15", "cp850"),
        (
            "Todos los seres humanos nacen libres e iguales en dignidad y derechos.\n"
            "¿Cuántos años tiene el señor? La contraseña caducó después de la última sesión.\n"
            "Comprueba también que la función devuelva el tamaño según el índice más pequeño.\n"
        ),
    ),
    "Portuguese": (
        ("latin_1", "cp1252", "iso8859_15"),
        (
            "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.\n"
            "A função não é chamada até que a configuração esteja pronta, então há três opções.\n"
            "Será necessário corrigir a posição do botão e a descrição das versões.\n"
        ),
    ),
    "Italian": (
        ("latin_1", "cp1252", "iso8859_15"),
        (
            "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.\n"
            "Perché il file è già aperto, la funzione non può leggerlo più di una volta.\n"
            "La quantità è così grande che ci sarà un errore lunedì o martedì.\n"
        ),
    ),
    "Swedish": (
        ("latin_1", "cp1252", "cp850"),
        (
            "Alla människor är födda fria och lika i värde och rättigheter.\n"
            "Nyckeln går ut efter trettio dagar och måste då förnyas på nytt av ägaren.\n"
        ),
    ),
    "Danish": (
        ("latin_1", "cp1252", "cp850"),
        (
            "Alle mennesker er født frie og lige i værdighed og rettigheder.\n"
            "Nøglen udløber efter tredive dage og skal derefter fornyes på næste møde.\n"
        ),
    ),
    "Finnish": (
        ("latin_1", "cp1252"),
        (
            "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.\n"
            "Tämä avain täytyy päivittää myöhemmin, jos käyttäjä ei löydä sitä.\n"
        ),
    ),
    "Icelandic": (
        ("latin_1", "cp1252"),
        (
            "Hver maður er borinn frjáls og jafn öðrum að virðingu og réttindum.\n"
            "Þetta er því það sem á að gera við lykilinn þegar hann er orðinn gamall.\n"
        ),
    ),
    "Polish": (
        ("cp1250", "iso8859_2", "cp852"),
        (
            "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.\n"
            "Są oni obdarzeni rozumem i sumieniem i powinni postępować w duchu braterstwa.\n"
            "Sprawdź, czy klucz został już użyty, zanim wyślesz żądanie ponownie.\n"
        ),
    ),
    "Czech": (
        ("cp1250", "iso8859_2", "cp852"),
        (
            "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.\n"
            "Jsou nadáni rozumem a svědomím a mají spolu jednat v duchu bratrství.\n"
            "Klíč vyprší po třiceti dnech, pak je třeba změnit heslo a ověřit uživatele.\n"
        ),
    ),
    "Hungarian": (
        ("cp1250", "iso8859_2", "cp852"),
        (
            "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.\n"
            "Az emberek, ésszel és lelkiismerettel bírván, egymással szemben testvéri szellemben\n"
            "kell hogy viseltessenek. A kulcs harminc nap után lejár, utána újítani kell a fűtőt.\n"
        ),
    ),
    "Turkish": (
        ("cp1254", "iso8859_9", "cp857"),
        (
            "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.\n"
            "Akıl ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket\n"
            "etmelidirler. Anahtarın süresi dolduğunda güncelleme için önce şifre değiştirilir.\n"
        ),
    ),
    "Lithuanian": (
        ("cp1257", "iso8859_13", "iso8859_4"),
        (
            "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis.\n"
            "Jiems suteiktas protas ir sąžinė ir jie turi elgtis vienas kito "
            "atžvilgiu kaip broliai.\n"
            "Raktas galioja trisdešimt dienų, po to jį reikės pakeisti iš naujo čia pat.\n"
        ),
    ),
    "Russian": (
        ("cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic"),
        (
            "Все люди рождаются свободными и равными в своем достоинстве и правах.\n"
            "Они наделены разумом и совестью и должны поступать в отношении друг друга\n"
            "в духе братства.\n"
            "Проверить размер файла перед записью, иначе ключ будет потерян\n"
        ),
    ),
    "Ukrainian": (
        ("cp1251", "koi8_u", "iso8859_5"),
        (
            "Всі люди народжуються вільними і рівними у своїй гідності та правах.\n"
            "Вони наділені розумом і совістю і повинні діяти у відношенні один до одного в дусі\n"
            "братерства. Перевірити розмір файлу перед записом, інакше ключ буде втрачено.\n"
        ),
    ),
    "Bulgarian": (
        ("cp1251", "iso8859_5"),
        (
            "Всички хора се раждат свободни и равни по достойнство и права.\n"
            "Те са надарени с разум и съвест и следва да се отнасят помежду си в дух на братство.\n"
        ),
    ),
    "Greek": (
        ("cp1253", "iso8859_7"),
        (
            "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.\n"
            "Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να "
            "συμπεριφέρονται μεταξύ τους\n"
            "με πνεύμα αδελφοσύνης. Το κλειδί λήγει μετά από τριάντα ημέρες.\n"
        ),
    ),
    "Hebrew": (
        ("cp1255", "iso8859_8"),
        (
            "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.\n"
            "כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה.\n"
        ),
    ),
    "Arabic": (
        ("cp1256", "iso8859_6"),
        (
            "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.\n"
            "وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.\n"
        ),
    ),
    "Thai": (
        ("cp874", "tis_620"),
        (
            "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ\n"
            "ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ\n"
        ),
    ),
    "Japanese": (
        ("shift_jis", "cp932", "euc_jp", "iso2022_jp"),
        (
            "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。\n"
            "これは設定ファイルの説明です。テストを実行する前にデータベースを初期化してください。\n"
            "鍵の有効期限は三十日で、その後は更新する必要があります。\n"
        ),
    ),
    "Simplified Chinese": (
        ("gb2312", "gbk", "gb18030", "hz"),
        (
            "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n"
            "这个函数在写入文件之前检查大小，如果密钥已经过期，就要重新生成一个新的。\n"
            "我们不能在这里使用缓存，因为数据可能已经被其他的线程修改了。\n"
        ),
    ),
    "Traditional Chinese": (
        ("big5", "cp950", "big5hkscs"),
        (
            "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神相對待。\n"
            "這個函數在寫入檔案之前檢查大小，如果密鑰已經過期，就要重新產生一個新的。\n"
            "我們不能在這裡使用快取，因為資料可能已經被其他的執行緒修改了。\n"
        ),
    ),
    "Korean": (
        ("euc_kr", "cp949", "johab", "iso2022_kr"),
        (
            "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n"
            "인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.\n"
            "이 함수는 파일을 쓰기 전에 크기를 확인하고, 키가 만료되었으면 다시 만들어야 합니다.\n"
        ),
    ),
}
"""By language: encodings, and a text of a few lines that each of them can encode."""
