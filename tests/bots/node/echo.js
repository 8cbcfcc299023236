// An echo bot in the manner of grammY's own examples. Some texts make it misbehave.
const { Bot } = require("grammy");

if (process.env.CRASH) throw new Error("no good");

const bot = new Bot(process.env.BOT_TOKEN, { client: { apiRoot: process.env.BOT_API_URL ?? "https://api.telegram.org" } });

bot.on("message:text", async (ctx) => {
  if (ctx.message.text === "freeze") while (true);
  if (ctx.message.text === "slow") await new Promise((resolve) => setTimeout(resolve, 600_000));
  await ctx.reply(ctx.message.text);
});

process.once("SIGINT", () => bot.stop());
process.once("SIGTERM", () => bot.stop());
bot.start({ timeout: Number(process.env.POLL_S ?? 5) });
