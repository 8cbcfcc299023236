"""The names of the Bot API's methods. Pure.

A method that Telegram has and the sandbox lacks is answered with 400, an invented one with 404: libraries take a
404 for a rejected token. The names are the public methods of ``telegram.Bot`` of python-telegram-bot 22.8 (Bot API
10.0); tests/integration/test_sandbox_methods.py compares the two.
"""

from __future__ import annotations

KNOWN_METHODS: frozenset[str] = frozenset(
    name.lower()
    for name in """
    addStickerToSet answerCallbackQuery answerGuestQuery answerInlineQuery answerPreCheckoutQuery
    answerShippingQuery answerWebAppQuery approveChatJoinRequest approveSuggestedPost banChatMember
    banChatSenderChat close closeForumTopic closeGeneralForumTopic convertGiftToStars copyMessage
    copyMessages createChatInviteLink createChatSubscriptionInviteLink createForumTopic createInvoiceLink
    createNewStickerSet declineChatJoinRequest declineSuggestedPost deleteAllMessageReactions
    deleteBusinessMessages deleteChatPhoto deleteChatStickerSet deleteForumTopic deleteMessage
    deleteMessageReaction deleteMessages deleteMyCommands deleteStickerFromSet deleteStickerSet
    deleteStory deleteWebhook editChatInviteLink editChatSubscriptionInviteLink editForumTopic
    editGeneralForumTopic editMessageCaption editMessageChecklist editMessageLiveLocation editMessageMedia
    editMessageReplyMarkup editMessageText editStory editUserStarSubscription exportChatInviteLink
    forwardMessage forwardMessages getAvailableGifts getBusinessAccountGifts getBusinessAccountStarBalance
    getBusinessConnection getChat getChatAdministrators getChatGifts getChatMember getChatMemberCount
    getChatMenuButton getCustomEmojiStickers getFile getForumTopicIconStickers getGameHighScores
    getManagedBotAccessSettings getManagedBotToken getMe getMyCommands getMyDefaultAdministratorRights
    getMyDescription getMyName getMyShortDescription getMyStarBalance getStarTransactions getStickerSet
    getUpdates getUserChatBoosts getUserGifts getUserPersonalChatMessages getUserProfileAudios
    getUserProfilePhotos getWebhookInfo giftPremiumSubscription hideGeneralForumTopic leaveChat logOut
    pinChatMessage postStory promoteChatMember readBusinessMessage refundStarPayment
    removeBusinessAccountProfilePhoto removeChatVerification removeMyProfilePhoto removeUserVerification
    reopenForumTopic reopenGeneralForumTopic replaceManagedBotToken replaceStickerInSet repostStory
    restrictChatMember revokeChatInviteLink savePreparedInlineMessage savePreparedKeyboardButton
    sendAnimation sendAudio sendChatAction sendChecklist sendContact sendDice sendDocument sendGame
    sendGift sendInvoice sendLivePhoto sendLocation sendMediaGroup sendMessage sendMessageDraft
    sendPaidMedia sendPhoto sendPoll sendSticker sendVenue sendVideo sendVideoNote sendVoice
    setBusinessAccountBio setBusinessAccountGiftSettings setBusinessAccountName
    setBusinessAccountProfilePhoto setBusinessAccountUsername setChatAdministratorCustomTitle
    setChatDescription setChatMemberTag setChatMenuButton setChatPermissions setChatPhoto
    setChatStickerSet setChatTitle setCustomEmojiStickerSetThumbnail setGameScore
    setManagedBotAccessSettings setMessageReaction setMyCommands setMyDefaultAdministratorRights
    setMyDescription setMyName setMyProfilePhoto setMyShortDescription setPassportDataErrors
    setStickerEmojiList setStickerKeywords setStickerMaskPosition setStickerPositionInSet
    setStickerSetThumbnail setStickerSetTitle setUserEmojiStatus setWebhook stopMessageLiveLocation
    stopPoll transferBusinessAccountStars transferGift unbanChatMember unbanChatSenderChat
    unhideGeneralForumTopic unpinAllChatMessages unpinAllForumTopicMessages
    unpinAllGeneralForumTopicMessages unpinChatMessage upgradeGift uploadStickerFile verifyChat verifyUser
    """.split()  # noqa: SIM905 - two hundred quotes say no more
)
