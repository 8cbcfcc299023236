#!/bin/sh
# An echo bot of curl and sed. Some texts make it misbehave.
[ -z "$CRASH" ] || { echo "no good"; exit 1; }
api="${BOT_API_URL:-https://api.telegram.org}/bot$BOT_TOKEN"
poll=${POLL_S:-5}
offset=0
while :; do
    answer=$(curl -sS --max-time $((poll + 10)) "$api/getUpdates?limit=1&timeout=$poll&offset=$offset")
    update=$(printf '%s' "$answer" | sed -n 's/.*"update_id": *\([0-9]*\).*/\1/p')
    [ -n "$update" ] || { case $answer in *'"ok": true'* | *'"ok":true'*) ;; *) sleep 1 ;; esac; continue; }
    offset=$((update + 1))
    chat=$(printf '%s' "$answer" | sed -n 's/.*"chat": *{[^}]*"id": *\(-\{0,1\}[0-9]*\).*/\1/p')
    text=$(printf '%s' "$answer" | sed -n 's/.*"text": *"\([^"]*\)".*/\1/p')
    case $text in freeze | slow) sleep 600 ;; esac
    curl -sS --data-urlencode "text=$text" --data "chat_id=$chat" "$api/sendMessage" >/dev/null
done
