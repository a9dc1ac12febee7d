"""Books and their authors, discoveries and inventions and the people behind them."""

from examples.facts.relation import Relation, facts, table, text

BOOKS = table("""
Hamlet | 哈姆雷特 | William Shakespeare | 莎士比亚
Dream of the Red Chamber | 红楼梦 | Cao Xueqin | 曹雪芹
War and Peace | 战争与和平 | Leo Tolstoy | 托尔斯泰
Don Quixote | 堂吉诃德 | Miguel de Cervantes | 塞万提斯
Faust | 浮士德 | Johann Wolfgang von Goethe | 歌德
The Divine Comedy | 神曲 | Dante Alighieri | 但丁
The True Story of Ah Q | 阿Q正传 | Lu Xun | 鲁迅
Pride and Prejudice | 傲慢与偏见 | Jane Austen | 简·奥斯汀
David Copperfield | 大卫·科波菲尔 | Charles Dickens | 狄更斯
The Old Man and the Sea | 老人与海 | Ernest Hemingway | 海明威
Rickshaw Boy | 骆驼祥子 | Lao She | 老舍
Robinson Crusoe | 鲁滨逊漂流记 | Daniel Defoe | 笛福
The Red and the Black | 红与黑 | Stendhal | 司汤达
The Hunchback of Notre-Dame | 巴黎圣母院 | Victor Hugo | 雨果
Gitanjali | 吉檀迦利 | Rabindranath Tagore | 泰戈尔
Crime and Punishment | 罪与罚 | Fyodor Dostoevsky | 陀思妥耶夫斯基
Madame Bovary | 包法利夫人 | Gustave Flaubert | 福楼拜
The Little Prince | 小王子 | Antoine de Saint-Exupery | 圣埃克苏佩里
Gulliver's Travels | 格列佛游记 | Jonathan Swift | 斯威夫特
The Metamorphosis | 变形记 | Franz Kafka | 卡夫卡
A Doll's House | 玩偶之家 | Henrik Ibsen | 易卜生
The Cherry Orchard | 樱桃园 | Anton Chekhov | 契诃夫
Moby-Dick | 白鲸 | Herman Melville | 梅尔维尔
Ulysses | 尤利西斯 | James Joyce | 乔伊斯
Midnight | 子夜 | Mao Dun | 茅盾
Fortress Besieged | 围城 | Qian Zhongshu | 钱锺书
Border Town | 边城 | Shen Congwen | 沈从文
Red Sorghum | 红高粱家族 | Mo Yan | 莫言
The Peony Pavilion | 牡丹亭 | Tang Xianzu | 汤显祖
The Call of the Wild | 野性的呼唤 | Jack London | 杰克·伦敦
Walden | 瓦尔登湖 | Henry David Thoreau | 梭罗
Romeo and Juliet | 罗密欧与朱丽叶 | William Shakespeare | 莎士比亚
Anna Karenina | 安娜·卡列尼娜 | Leo Tolstoy | 托尔斯泰
""")

ACHIEVEMENTS = table("""
the theory of relativity | 相对论 | Albert Einstein | 爱因斯坦
the law of universal gravitation | 万有引力定律 | Isaac Newton | 牛顿
the discovery of radium | 镭的发现 | Marie Curie | 居里夫人
the discovery of penicillin | 青霉素的发现 | Alexander Fleming | 弗莱明
the invention of dynamite | 甘油炸药的发明 | Alfred Nobel | 诺贝尔
the laws of heredity | 遗传定律 | Gregor Mendel | 孟德尔
hybrid rice | 杂交水稻 | Yuan Longping | 袁隆平
the discovery of artemisinin | 青蒿素的发现 | Tu Youyou | 屠呦呦
the book On the Origin of Species | 物种起源 | Charles Darwin | 达尔文
the periodic table | 元素周期表 | Dmitri Mendeleev | 门捷列夫
the phonograph | 留声机 | Thomas Edison | 爱迪生
the first electric battery | 第一个电池 | Alessandro Volta | 伏打
the discovery of the electron | 电子的发现 | J. J. Thomson | 汤姆孙
the discovery of the neutron | 中子的发现 | James Chadwick | 查德威克
the discovery of electromagnetic induction | 电磁感应的发现 | Michael Faraday | 法拉第
the discovery of X-rays | X射线的发现 | Wilhelm Roentgen | 伦琴
quantum theory of radiation | 能量子假说 | Max Planck | 普朗克
the uncertainty principle | 不确定性原理 | Werner Heisenberg | 海森堡
the laws of planetary motion | 行星运动定律 | Johannes Kepler | 开普勒
the heliocentric theory | 日心说 | Nicolaus Copernicus | 哥白尼
the first smallpox vaccine | 牛痘接种 | Edward Jenner | 詹纳
the mercury barometer | 水银气压计 | Evangelista Torricelli | 托里拆利
the first seismoscope | 地动仪 | Zhang Heng | 张衡
movable type | 活字印刷术 | Bi Sheng | 毕昇
the World Wide Web | 万维网 | Tim Berners-Lee | 蒂姆·伯纳斯-李
the Linux kernel | Linux 内核 | Linus Torvalds | 林纳斯·托瓦兹
""")

RELATIONS = (
    Relation(
        name="authors",
        topic="culture",
        title=text("authors", "作者"),
        facts=facts("authors", BOOKS, (0, 1), (2, 3)),
        statements={
            "en": (
                "{s} was written by {o}.",
                "The author of {s} is {o}.",
                "Readers owe {s} to {o}.",
                "{o} wrote {s}.",
                "{o} is the author of {s}.",
            ),
            "zh": (
                "《{s}》的作者是{o}。",
                "写《{s}》的人是{o}。",
                "《{s}》的作者叫{o}。",
                "{o}写了《{s}》。",
                "《{s}》是{o}写的。",
            ),
        },
        questions={
            "en": ("Who wrote {s}?", "Who is the author of {s}?", "By whom was {s} written?"),
            "zh": ("《{s}》的作者是谁？", "谁写了《{s}》？", "写《{s}》的人是谁？"),
        },
    ),
    Relation(
        name="achievements",
        topic="culture",
        title=text("discoveries and inventions", "发现与发明"),
        facts=facts("achievements", ACHIEVEMENTS, (0, 1), (2, 3)),
        statements={
            "en": (
                "The person behind {s} is {o}.",
                "We owe {s} to {o}.",
                "The name that goes with {s} is {o}.",
                "{o} is famous for {s}.",
                "To {o} we owe {s}.",
            ),
            "zh": (
                "说到{s}，就会想到{o}。",
                "{s}要归功于{o}。",
                "因{s}而有名的人是{o}。",
                "{o}因{s}而有名。",
                "{o}的成就有{s}。",
            ),
        },
        questions={
            "en": (
                "Who is famous for {s}?",
                "To whom do we owe {s}?",
                "Who is the person behind {s}?",
            ),
            "zh": ("谁因{s}而有名？", "{s}要归功于谁？", "说到{s}，会想到谁？"),
        },
    ),
)
