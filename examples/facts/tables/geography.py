"""Countries: capital, continent, currency; and where famous sights stand."""

from examples.facts.relation import Relation, facts, table, text

_CONTINENTS = {
    "Asia": "亚洲",
    "Europe": "欧洲",
    "Africa": "非洲",
    "North America": "北美洲",
    "South America": "南美洲",
    "Oceania": "大洋洲",
    "-": "-",
}

# Country, capital, continent, currency. A dash where the answer would be disputed, or would
# repeat the name of the country.
_ROWS = table("""
China | 中国 | Beijing | 北京 | Asia | renminbi | 人民币
France | 法国 | Paris | 巴黎 | Europe | euro | 欧元
Japan | 日本 | Tokyo | 东京 | Asia | yen | 日元
the United States | 美国 | Washington | 华盛顿 | North America | US dollar | 美元
Brazil | 巴西 | Brasilia | 巴西利亚 | South America | real | 雷亚尔
Egypt | 埃及 | Cairo | 开罗 | Africa | Egyptian pound | 埃及镑
Australia | 澳大利亚 | Canberra | 堪培拉 | Oceania | Australian dollar | 澳元
Germany | 德国 | Berlin | 柏林 | Europe | euro | 欧元
India | 印度 | New Delhi | 新德里 | Asia | Indian rupee | 印度卢比
Canada | 加拿大 | Ottawa | 渥太华 | North America | Canadian dollar | 加元
Kenya | 肯尼亚 | Nairobi | 内罗毕 | Africa | Kenyan shilling | 肯尼亚先令
the United Kingdom | 英国 | London | 伦敦 | Europe | pound sterling | 英镑
Italy | 意大利 | Rome | 罗马 | Europe | euro | 欧元
Argentina | 阿根廷 | Buenos Aires | 布宜诺斯艾利斯 | South America | Argentine peso | 阿根廷比索
Thailand | 泰国 | Bangkok | 曼谷 | Asia | baht | 泰铢
Russia | 俄罗斯 | Moscow | 莫斯科 | - | ruble | 卢布
Spain | 西班牙 | Madrid | 马德里 | Europe | euro | 欧元
New Zealand | 新西兰 | Wellington | 惠灵顿 | Oceania | New Zealand dollar | 新西兰元
Nigeria | 尼日利亚 | Abuja | 阿布贾 | Africa | naira | 奈拉
Peru | 秘鲁 | Lima | 利马 | South America | sol | 索尔
South Korea | 韩国 | Seoul | 首尔 | Asia | won | 韩元
Poland | 波兰 | Warsaw | 华沙 | Europe | zloty | 兹罗提
Cuba | 古巴 | Havana | 哈瓦那 | North America | Cuban peso | 古巴比索
Vietnam | 越南 | Hanoi | 河内 | Asia | dong | 越南盾
Sweden | 瑞典 | Stockholm | 斯德哥尔摩 | Europe | Swedish krona | 瑞典克朗
Morocco | 摩洛哥 | Rabat | 拉巴特 | Africa | dirham | 迪拉姆
Chile | 智利 | Santiago | 圣地亚哥 | South America | Chilean peso | 智利比索
Portugal | 葡萄牙 | Lisbon | 里斯本 | Europe | euro | 欧元
Turkey | 土耳其 | Ankara | 安卡拉 | - | lira | 里拉
Greece | 希腊 | Athens | 雅典 | Europe | euro | 欧元
Mexico | 墨西哥 | - | - | North America | Mexican peso | 墨西哥比索
Ethiopia | 埃塞俄比亚 | Addis Ababa | 亚的斯亚贝巴 | Africa | birr | 比尔
Malaysia | 马来西亚 | Kuala Lumpur | 吉隆坡 | Asia | ringgit | 林吉特
Norway | 挪威 | Oslo | 奥斯陆 | Europe | Norwegian krone | 挪威克朗
Colombia | 哥伦比亚 | Bogota | 波哥大 | South America | Colombian peso | 哥伦比亚比索
the Philippines | 菲律宾 | Manila | 马尼拉 | Asia | Philippine peso | 菲律宾比索
Austria | 奥地利 | Vienna | 维也纳 | Europe | euro | 欧元
Ghana | 加纳 | Accra | 阿克拉 | Africa | cedi | 塞地
Fiji | 斐济 | Suva | 苏瓦 | Oceania | Fijian dollar | 斐济元
Hungary | 匈牙利 | Budapest | 布达佩斯 | Europe | forint | 福林
Mongolia | 蒙古 | Ulaanbaatar | 乌兰巴托 | Asia | tugrik | 图格里克
Denmark | 丹麦 | Copenhagen | 哥本哈根 | Europe | Danish krone | 丹麦克朗
Finland | 芬兰 | Helsinki | 赫尔辛基 | Europe | euro | 欧元
Ireland | 爱尔兰 | Dublin | 都柏林 | Europe | euro | 欧元
Ukraine | 乌克兰 | Kyiv | 基辅 | Europe | hryvnia | 格里夫纳
Czechia | 捷克 | Prague | 布拉格 | Europe | Czech koruna | 捷克克朗
Belgium | 比利时 | Brussels | 布鲁塞尔 | Europe | euro | 欧元
Romania | 罗马尼亚 | Bucharest | 布加勒斯特 | Europe | leu | 列伊
Cambodia | 柬埔寨 | Phnom Penh | 金边 | Asia | riel | 瑞尔
Laos | 老挝 | Vientiane | 万象 | Asia | kip | 基普
Nepal | 尼泊尔 | Kathmandu | 加德满都 | Asia | Nepalese rupee | 尼泊尔卢比
Bangladesh | 孟加拉国 | Dhaka | 达卡 | Asia | taka | 塔卡
Pakistan | 巴基斯坦 | Islamabad | 伊斯兰堡 | Asia | Pakistani rupee | 巴基斯坦卢比
Saudi Arabia | 沙特阿拉伯 | Riyadh | 利雅得 | Asia | Saudi riyal | 沙特里亚尔
Iraq | 伊拉克 | Baghdad | 巴格达 | Asia | Iraqi dinar | 伊拉克第纳尔
Iran | 伊朗 | Tehran | 德黑兰 | Asia | - | -
Jordan | 约旦 | Amman | 安曼 | Asia | Jordanian dinar | 约旦第纳尔
Ecuador | 厄瓜多尔 | Quito | 基多 | South America | US dollar | 美元
Uruguay | 乌拉圭 | Montevideo | 蒙得维的亚 | South America | Uruguayan peso | 乌拉圭比索
Paraguay | 巴拉圭 | Asuncion | 亚松森 | South America | guarani | 瓜拉尼
Venezuela | 委内瑞拉 | Caracas | 加拉加斯 | South America | - | -
Guatemala | 危地马拉 | - | - | North America | quetzal | 格查尔
Honduras | 洪都拉斯 | Tegucigalpa | 特古西加尔巴 | North America | lempira | 伦皮拉
Nicaragua | 尼加拉瓜 | Managua | 马那瓜 | North America | cordoba | 科多巴
Costa Rica | 哥斯达黎加 | San Jose | 圣何塞 | North America | colon | 科朗
Jamaica | 牙买加 | Kingston | 金斯敦 | North America | Jamaican dollar | 牙买加元
Uganda | 乌干达 | Kampala | 坎帕拉 | Africa | Ugandan shilling | 乌干达先令
Zambia | 赞比亚 | Lusaka | 卢萨卡 | Africa | kwacha | 克瓦查
Angola | 安哥拉 | Luanda | 罗安达 | Africa | kwanza | 宽扎
Rwanda | 卢旺达 | Kigali | 基加利 | Africa | Rwandan franc | 卢旺达法郎
Madagascar | 马达加斯加 | Antananarivo | 塔那那利佛 | Africa | ariary | 阿里亚里
Senegal | 塞内加尔 | Dakar | 达喀尔 | Africa | - | -
Libya | 利比亚 | Tripoli | 的黎波里 | Africa | Libyan dinar | 利比亚第纳尔
Zimbabwe | 津巴布韦 | Harare | 哈拉雷 | Africa | - | -
Papua New Guinea | 巴布亚新几内亚 | Port Moresby | 莫尔兹比港 | Oceania | kina | 基那
Serbia | 塞尔维亚 | Belgrade | 贝尔格莱德 | Europe | Serbian dinar | 塞尔维亚第纳尔
Croatia | 克罗地亚 | Zagreb | 萨格勒布 | Europe | euro | 欧元
Iceland | 冰岛 | Reykjavik | 雷克雅未克 | Europe | Icelandic krona | 冰岛克朗
the Netherlands | 荷兰 | Amsterdam | 阿姆斯特丹 | Europe | euro | 欧元
""")
COUNTRIES = [[*row[:5], _CONTINENTS[row[4]], *row[5:]] for row in _ROWS]

SIGHTS = table("""
the Great Wall | 长城 | China | 中国
the Eiffel Tower | 埃菲尔铁塔 | France | 法国
Mount Fuji | 富士山 | Japan | 日本
the Statue of Liberty | 自由女神像 | the United States | 美国
the Colosseum | 斗兽场 | Italy | 意大利
the Taj Mahal | 泰姬陵 | India | 印度
the Sphinx of Giza | 吉萨的狮身人面像 | Egypt | 埃及
Stonehenge | 巨石阵 | the United Kingdom | 英国
the Sydney Opera House | 悉尼歌剧院 | Australia | 澳大利亚
the Brandenburg Gate | 勃兰登堡门 | Germany | 德国
the Kremlin | 克里姆林宫 | Russia | 俄罗斯
Machu Picchu | 马丘比丘 | Peru | 秘鲁
the Acropolis of Athens | 雅典卫城 | Greece | 希腊
Angkor Wat | 吴哥窟 | Cambodia | 柬埔寨
the Alhambra | 阿尔罕布拉宫 | Spain | 西班牙
the Hagia Sophia | 圣索菲亚大教堂 | Turkey | 土耳其
the CN Tower | 加拿大国家电视塔 | Canada | 加拿大
the ruins of Petra | 佩特拉古城 | Jordan | 约旦
Chichen Itza | 奇琴伊察 | Mexico | 墨西哥
the Petronas Towers | 双峰塔 | Malaysia | 马来西亚
the Great Barrier Reef | 大堡礁 | Australia | 澳大利亚
Big Ben | 大本钟 | the United Kingdom | 英国
the Forbidden City | 故宫 | China | 中国
the Leaning Tower of Pisa | 比萨斜塔 | Italy | 意大利
the Louvre | 卢浮宫 | France | 法国
the Grand Canyon | 科罗拉多大峡谷 | the United States | 美国
""")

RELATIONS = (
    Relation(
        name="capitals",
        topic="geography",
        title=text("capitals", "首都"),
        facts=facts("capitals", COUNTRIES, (0, 1), (2, 3)),
        statements={
            "en": (
                "The capital of {s} is {o}.",
                "The capital city of {s} is called {o}.",
                "As its capital {s} has {o}.",
                "{o} is the capital of {s}.",
                "Who visits {o} visits the capital of {s}.",
                "The city that is the capital of {s} is {o}.",
            ),
            "zh": (
                "{s}的首都是{o}。",
                "{s}把首都定在{o}。",
                "作为{s}首都的城市是{o}。",
                "{o}是{s}的首都。",
                "{s}的首都叫{o}。",
                "去{o}就是去{s}的首都。",
            ),
        },
        questions={
            "en": (
                "What is the capital of {s}?",
                "Which city is the capital of {s}?",
                "What is the capital city of {s} called?",
            ),
            "zh": ("{s}的首都是哪里？", "哪个城市是{s}的首都？", "{s}的首都叫什么？"),
        },
    ),
    Relation(
        name="continents",
        topic="geography",
        title=text("continents", "大洲"),
        facts=facts("continents", COUNTRIES, (0, 1), (4, 5)),
        statements={
            "en": (
                "{s} belongs to the continent {o}.",
                "{s} is a country in {o}.",
                "On the map {s} lies in {o}.",
                "One country in {o} is {s}.",
                "In {o} lies the country called {s}.",
            ),
            "zh": (
                "{s}位于{o}。",
                "{s}是{o}的国家。",
                "在地图上，{s}在{o}。",
                "{o}有一个国家叫{s}。",
                "{s}所在的大洲是{o}。",
            ),
        },
        questions={
            "en": (
                "On which continent is {s}?",
                "To which continent does {s} belong?",
                "On the map, where does {s} lie?",
            ),
            "zh": ("{s}位于哪个大洲？", "{s}在哪个大洲？", "{s}所在的大洲是什么？"),
        },
    ),
    Relation(
        name="currencies",
        topic="geography",
        title=text("currencies", "货币"),
        facts=facts("currencies", COUNTRIES, (0, 1), (6, 7)),
        statements={
            "en": (
                "The currency of {s} is the {o}.",
                "In {s} people pay with the {o}.",
                "The money of {s} is called the {o}.",
                "The {o} is the currency of {s}.",
                "With the {o} people pay in {s}.",
            ),
            "zh": (
                "{s}的货币是{o}。",
                "在{s}买东西用{o}。",
                "{s}用的钱叫{o}。",
                "{o}是{s}的货币。",
                "人们在{s}用{o}买东西。",
            ),
        },
        questions={
            "en": (
                "What is the currency of {s}?",
                "With which money do people pay in {s}?",
                "What is the money of {s} called?",
            ),
            "zh": ("{s}的货币是什么？", "在{s}买东西用什么钱？", "{s}用的钱叫什么？"),
        },
    ),
    Relation(
        name="sights",
        topic="geography",
        title=text("famous sights", "名胜"),
        facts=facts("sights", SIGHTS, (0, 1), (2, 3)),
        statements={
            "en": (
                "The country of {s} is {o}.",
                "To see {s}, travel to {o}.",
                "People find {s} in {o}.",
                "{s} can be seen in {o}.",
                "{o} is the country of {s}.",
                "Many travel to {o} to see {s}.",
            ),
            "zh": (
                "{s}在{o}。",
                "想看{s}，要去{o}。",
                "{s}位于{o}。",
                "{o}的名胜有{s}。",
                "很多人去{o}看{s}。",
                "有{s}的国家是{o}。",
            ),
        },
        questions={
            "en": (
                "In which country is {s}?",
                "Where do people travel to see {s}?",
                "Which country has {s}?",
            ),
            "zh": ("{s}在哪个国家？", "想看{s}，要去哪个国家？", "哪个国家有{s}？"),
        },
    ),
)
