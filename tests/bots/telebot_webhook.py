"""An echo bot as a pyTelegramBotAPI script that has its updates delivered, to a plain server on ``PORT``."""

import http.server
import os
import time

import telebot

if "API_SERVER" in os.environ:
    telebot.apihelper.API_URL = os.environ["API_SERVER"] + "/bot{0}/{1}"

SECRET = "my-secret"
bot = telebot.TeleBot(os.environ["BOT_TOKEN"], threaded=False)


@bot.message_handler(func=lambda message: True)
def echo_all(message):
    if message.text in ("freeze", "slow"):
        time.sleep(600)
    bot.reply_to(message, message.text)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        accepted = self.headers["X-Telegram-Bot-Api-Secret-Token"] == SECRET
        if accepted:
            bot.process_new_updates([telebot.types.Update.de_json(body.decode())])
        self.send_response(200 if accepted else 401)
        self.end_headers()


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
bot.set_webhook(os.environ["WEBHOOK_URL"], secret_token=SECRET)
server.serve_forever()
