# ruff: noqa: E501, RUF001
"""The text that the rebuilt vocabulary is trained on: everyday talk in English and Chinese, written for this purpose."""

ENGLISH = """\
Hello, how are you today? I am fine, thank you. What is the weather like outside? It is raining again, but the sun will come out in
the afternoon. Could you please tell me the time? It is half past three. I would like to book a table for two people at seven o'clock.
Certainly, under which name should I make the reservation? That sounds good to me. Let me think about it for a moment. I am not sure
whether that is the right answer, so let us check it together. First we open the window, then we look at the numbers, and after that
we write them down. Do you know where the nearest station is? Go straight ahead, turn left at the second corner, and you will see it
on the right side of the street. How long does the train take? It takes about twenty minutes from here to the city.

My sister works in a hospital and my brother is still at school. They both like music, and they sing together every evening. When
they were young, they lived in a small house near the river. There was a garden with apple trees, and in summer the children played
under the trees until it was dark. The old man who lived next door told them stories about ships, storms and islands far away.
Nobody knew whether the stories were true, but everybody wanted to hear them again and again.

Please wait a second, I am looking for the file. I have found it. It says that the meeting starts at nine and that everyone should
bring a notebook. Can you repeat that? Yes, of course. The meeting starts at nine. What else should I prepare? Nothing else, just be
there on time. If something changes, I will call you. By the way, did you see the picture that I sent you yesterday? It shows the
mountain behind our house, covered with snow. The light was so beautiful that I had to stop and take a photo with my phone.

I can see a table with a cup of coffee, a book and a pair of glasses. There are two people in the room: a woman in a red coat and a
man who is reading a newspaper. On the wall there is a clock, and it shows ten minutes past eight. The door is open and a dog is
lying on the floor. What do you think they are talking about? Perhaps they are planning a journey. They might go to the sea, because
there is a map on the table and someone has marked the way with a pencil.

To cook rice, wash it first, then add water and a little salt, and let it boil. After ten minutes turn the heat down and wait until
all the water is gone. Do not lift the lid too often. Meanwhile you can cut the vegetables: onions, carrots, peppers and a bit of
garlic. Fry them in hot oil, add the rice, and stir everything well. Some people put an egg on top. It is simple, it is cheap, and it
tastes wonderful with a drop of lemon. Enjoy your meal!

One, two, three, four, five, six, seven, eight, nine, ten. Eleven plus twelve is twenty three. A hundred minus one is ninety nine.
The first question was easy, the second was harder, and the third was impossible. No problem, we will try it again tomorrow. Learning
takes time, and making mistakes is part of it. Speak slowly, listen carefully, and ask whenever you do not understand something.
Good night, sleep well, and see you soon. Have a nice weekend! You too. Goodbye.
"""

CHINESE = """\
你好，今天天气怎么样？今天下雨，不过下午会出太阳。请问现在几点了？现在三点半。我想订一张两个人的桌子，晚上七点。好的，请问您贵姓？我叫小明，我是学生。
你在做什么？我在看书，也在听音乐。这本书很有意思，我想再看一遍。你知道车站在哪里吗？一直往前走，在第二个路口左转，就在右边。坐火车要多长时间？大约二十分钟。
我的姐姐在医院工作，我的弟弟还在上学。他们都喜欢唱歌，每天晚上一起唱。小时候，他们住在河边的一个小房子里，院子里有苹果树，夏天孩子们在树下玩。
请等一下，我在找文件。找到了。上面说会议九点开始，大家都要带笔记本。可以再说一遍吗？当然可以。会议九点开始。如果有变化，我会给你打电话。
我看见桌子上有一杯咖啡、一本书和一副眼镜。房间里有两个人，一个女人和一个男人。墙上有一个钟，门开着，地上有一只狗。你觉得他们在说什么？也许他们想去海边。
先把米洗干净，再加水和一点盐，然后煮十分钟。不要常常打开。这个菜很简单，也很好吃。一二三四五六七八九十。学习需要时间，我们明天再试一次。晚安，再见，谢谢你！
"""

# Chinese is given character by character, each at least twice: its characters become tokens of their own, and no token mixes the
# bytes of two characters.
DOCUMENTS = [
    *ENGLISH.split("\n\n"),
    *(character for character in CHINESE if not character.isspace()),
    *sorted(set("".join(CHINESE.split()))),
]
